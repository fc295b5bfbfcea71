"""Nothing is asked of the network that the user has not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.app.browsing import ROOT, captioned, opened, serving, upload
from tests.conftest import EXAMPLES
from tests.training.test_training import workplace, write_recipe

__all__ = ["workplace"]

# Python imports a module of this name before all else, in every process.
WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments
    else:
        return
    here = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost", "", None)
    if not here:
        with open({log!r}, "a") as file:
            file.write(f"{{event}} {{address}} by {{sys.argv}}\\n")
        raise OSError("the network is out of bounds")

sys.addaudithook(watch)
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is written down whom processes started now have called."""
    log = tmp_path / "calls"
    log.touch()
    (folder := tmp_path / "watch").mkdir()
    (folder / "sitecustomize.py").write_text(WATCH.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    return log


def python(folder: Path, *arguments: str | Path) -> int:
    environment = {**os.environ, "CAPTIONER_DATA": str(folder)}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, env=environment, check=False).returncode


@pytest.mark.usefixtures("no_java")
def test_captioning_training_and_evaluation_call_nobody(calls: Path, workplace: Path) -> None:
    write_recipe(workplace, epochs=1)
    photos = workplace / "flickr8k" / "images"
    for command in (
        ["-m", "captioner", "caption", photos, "--output", "captions.jsonl"],
        ["-m", "captioner", "data", "check", "recipe.toml"],
        [ROOT / "train.py", "recipe.toml"],
        [ROOT / "evaluate.py", "runs/recipe/best", "--data", "recipe.toml", "--output", "evaluation"],
        ["-m", "captioner", "plot", "runs/recipe"],
    ):
        assert python(workplace, *command) == 0
    assert calls.read_text() == ""


def test_the_web_app_calls_nobody(calls: Path, browser: Browser) -> None:
    with serving() as url, opened(browser, url) as page:
        upload(page, EXAMPLES / "cat.jpg")
        assert captioned(page, "cat.jpg")
    assert calls.read_text() == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_nobody_is_asked_for_the_address_of_this_machine(
    calls: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamlit would, to print it at the start, and to compare it with that of a page that is not its own."""
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", address)
    with serving() as url:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=30)
        foreign = {
            "Origin": "http://elsewhere.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        }
        connection.request("GET", "/_stcore/stream", headers=foreign)
        assert connection.getresponse().status == 403
    # A UDP socket, by which it finds its address in the local network: connecting that sends nothing.
    assert {line.split(" by ")[0] for line in calls.read_text().splitlines()} <= {"socket.connect ('8.8.8.8', 1)"}


def test_a_call_would_be_noticed(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert python(tmp_path, "-c", "import socket; socket.create_connection(('192.0.2.1', 80))") == 1
    assert "192.0.2.1" in calls.read_text()
    calls.write_text("")
    # Weights that are fetched, by torchvision, are an example of what is asked for.
    program = "import torchvision; torchvision.models.squeezenet1_1(weights='DEFAULT')"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert python(tmp_path, "-c", program) == 1
    assert "download.pytorch.org" in calls.read_text()
