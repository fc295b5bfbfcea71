from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from captioner import serve
from captioner.checkpoint_files import BUNDLED
from captioner.cli import main


@pytest.fixture(autouse=True)
def no_streamlit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not refused ends here, in place of a server."""
    for name in ("streamlit.web", "streamlit.web.cli"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "streamlit", None)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["app", *arguments]) == 1
    line = capsys.readouterr().err
    assert line.startswith("captioner: ")
    assert line.count("\n") == 1
    return line


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def test_streamlit_is_needed(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs streamlit" in refusal(capsys, "--port", str(port))


@pytest.mark.parametrize(
    ("folder", "recipe"), [("nowhere", "flickr8k-soft"), ("runs/flickr8k-hard/best", "flickr8k-hard")]
)
def test_without_a_checkpoint_the_command_that_makes_one_is_told(
    tmp_path: Path, folder: str, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "--checkpoint", str(tmp_path / folder))
    assert f"{tmp_path / folder}: " in said
    assert said.endswith(f": .venv/bin/python train.py recipes/{recipe}.toml\n")


def test_of_a_run_its_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(BUNDLED, tmp_path / "mine" / "best")
    for command in (["app", "--checkpoint"], ["info"], ["caption", str(tmp_path), "--checkpoint"]):
        assert main([*command, str(tmp_path / "mine")]) == 1
        said = capsys.readouterr().err
        assert said == f"captioner: {tmp_path}/mine: the folder of a run; name the model in it, {tmp_path}/mine/best\n"


def test_half_a_checkpoint_is_none(tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(BUNDLED, tmp_path / "model")
    assert "needs streamlit" in refusal(capsys, "--checkpoint", str(copy), "--port", str(port))
    (copy / "model.safetensors").unlink()
    assert "model.safetensors absent" in refusal(capsys, "--checkpoint", str(copy), "--port", str(port))


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot be listened on (Address already in use" in refusal(
            capsys, "--port", str(port)
        )


def test_the_environment_names_port_and_address(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.2", port)):
        monkeypatch.setenv("STREAMLIT_SERVER_PORT", str(port))
        assert "needs streamlit" in refusal(capsys)
        monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "127.0.0.2")
        assert f"127.0.0.2:{port}: " in refusal(capsys)


@pytest.mark.parametrize("address", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_of_this_machine_is_told_from_a_taken_port(
    address: str, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", address)
    said = refusal(capsys, "--port", str(port))
    assert f"{address}:{port}: cannot be listened on (" in said
    assert said.endswith("; STREAMLIT_SERVER_ADDRESS must be one of this machine\n")


def test_an_empty_address_is_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[str, int]] = []
    monkeypatch.setattr(serve, "_check_free", lambda *place: looked.append(place))
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "")
    monkeypatch.setenv("STREAMLIT_SERVER_PORT", "")
    assert main(["app"]) == 1  # there is no Streamlit here
    assert looked == [("127.0.0.1", 8501)]


@pytest.mark.parametrize("wrong", ["0", "65536", "-1", "web"])
def test_a_port_out_of_range_is_wrong_usage(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["app", f"--port={wrong}"])
    assert caught.value.code == 2
    assert f"argument --port: '{wrong}' is not a port" in capsys.readouterr().err


def test_an_installation_without_the_app_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "_SCRIPT", tmp_path / "streamlit_app.py")
    assert "use a clone" in refusal(capsys)


def test_it_says_where_it_is_and_ctrl_c_ends_it(port: int) -> None:
    command = [sys.executable, "-m", "captioner", "app", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            said = ""
            while "URL" not in said:
                said = process.stdout.readline()
                assert said, "it ended"
            assert f"http://127.0.0.1:{port}" in said
            process.send_signal(signal.SIGINT)
            assert "Traceback" not in process.stdout.read()
            assert process.wait() == 130
        finally:
            process.kill()  # or a server that goes on would be waited for
