"""Every command and every snippet of the documents: run if it is quick, else at least understood by what it calls.

A block of commands is run by bash with stand-ins for the programs, which write down what they were called with. Loops,
variables and continued lines are bash's own that way, and what the real programs make of their arguments is looked at
afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import evaluate
import train
from captioner import cli
from captioner.checkpoint import load_checkpoint
from captioner.data.annotations import DATA_VARIABLE
from captioner.recipe import DataConfig, Recipe
from tests.conftest import needs_data
from tests.training.runs import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
PROGRAMS = {"captioner", "python", "pytest", "torchrun", "tensorboard", "pip", "pip-audit", "pre-commit"}
# Of the machine: they are not run, and but for make what they are called with is their own business.
OTHERS = {"make", "docker", "unzip", "awk", "find", "sed", "cat", "ls", "gnu-time"}
HARMLESS = {"basename", "mkdir"}
# One write each, as the programs of a pipe run at once.
STAND_IN = '#!/bin/bash\nprintf -v call "%s\\x1f" "${0##*/}" "$@"; printf "%s\\x1e" "$call" >> "$CALLS"; echo answer\n'
MAKE = re.compile(r"^([a-z-]+):", re.M)


class Block(NamedTuple):
    """A fenced block of a document."""

    document: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
            yield Block(document, text.count("\n", 0, found.start()) + 1, found[1])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A clone, as far as names go, in which programs do nothing but write down how they were called."""
    place = tmp_path / "clone"
    for folder in (place / ".venv" / "bin", tmp_path / "bin"):
        folder.mkdir(parents=True)
        for name in PROGRAMS | (OTHERS if folder.parent == tmp_path else set()):
            (folder / name).write_text(STAND_IN)
            (folder / name).chmod(0o755)
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in {"runs", "cache"}:
            (place / path.name).symlink_to(path)
    for name in HARMLESS | {"bash"}:
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    return place


@pytest.mark.parametrize("block", [*blocks("sh")], ids=str)
def test_commands(block: Block, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = place.parent / "calls"
    calls.touch()
    environment = {"PATH": str(place.parent / "bin"), "CALLS": str(calls), "CAPTIONER_DATA": str(place.parent / "data")}
    # A path of the machine is an example's; the programs of /usr/bin are stand-ins, too.
    text = block.text.replace("/path/to/data", str(place.parent / "data")).replace("/usr/bin/time", "gnu-time")
    done = subprocess.run(["/bin/bash", "-euc", text], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    called = [call.split("\x1f")[:-1] for call in calls.read_text().split("\x1e")[:-1]]
    assert called
    monkeypatch.chdir(place)
    for program, *arguments in called:
        understand(program, arguments, monkeypatch)


def understand(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if program == "gnu-time":
        program, arguments = Path(arguments[1]).name, arguments[2:]
    if program == "torchrun":
        start = arguments.index("train.py")
        program, arguments = "python", arguments[start:]
    if program == "make":
        assert set(arguments) <= set(MAKE.findall((ROOT / "Makefile").read_text()))
    if program == "python" and arguments[0] == "-m":
        program, arguments = arguments[1], arguments[2:]
    if program == "captioner":
        parse(cli.main, arguments, monkeypatch)
    elif program == "pytest":
        assert all((ROOT / argument).exists() for argument in arguments if argument.startswith("tests/"))
    elif program == "python" and arguments[0] != "-c":
        script, arguments = arguments[0], arguments[1:]
        assert (ROOT / script).is_file()
        known = {"train.py": train.main, "evaluate.py": evaluate.main}
        if script in known:
            parse(known[script], arguments, monkeypatch)
        elif arguments:
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            parse(lambda _: runpy.run_path(str(ROOT / script), run_name="__main__"), arguments, monkeypatch)
    for argument in arguments:
        if re.match(r"(recipes|benchmarks|docs|examples|captioner)/", argument):
            assert (ROOT / argument).exists(), argument
        if argument.startswith("recipes/"):
            Recipe.read(ROOT / argument)


class Parsed(Exception):  # noqa: N818
    """The program has understood its arguments, and would begin."""


def parse(main: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program read its arguments, and no more; wrong ones are a SystemExit."""
    whole = argparse.ArgumentParser.parse_args

    def and_no_more(*given: Any, **named: Any) -> None:
        whole(*given, **named)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", and_no_more)
        with pytest.raises(Parsed):
            main(arguments)


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if "```python\n" in path.read_text(encoding="utf-8")], ids=lambda p: p.name
)
def test_snippets(document: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of a document are run one after the other, as a reader would."""
    monkeypatch.chdir(tmp_path)
    for name in ("examples", "captioner"):
        (tmp_path / name).symlink_to(ROOT / name)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        if block.document == document:
            code = compile("\n" * block.line + block.text, str(document), "exec")
            exec(code, names)


@pytest.mark.parametrize("block", [*blocks("toml")], ids=str)
def test_settings(block: Block) -> None:
    values = tomllib.loads(block.text)
    if values.keys() == {"data"}:
        DataConfig.from_dict(values["data"])
    else:
        Recipe.from_dict(values)


def test_the_tutorial_leads_to_a_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recipe, for one epoch, on a table of the kind it describes."""
    [recipe] = [block for block in blocks("toml") if block.document.name == "tutorial.md"]
    photos = sorted((ROOT / "examples").glob("*.jpg"))
    (images := tmp_path / "my-data" / "pets" / "images").mkdir(parents=True)
    rows = [*re.findall("^image,caption,split$", recipe.document.read_text(encoding="utf-8"), re.M)]
    for number, photo in enumerate(photos):
        (images / photo.name).symlink_to(photo)
        split = "dev" if number < 2 else "train"
        rows += [
            f'{photo.name},"{caption}",{split}' for caption in ("A man, it seems, in a hat.", f"{photo.stem} here.")
        ]
    (images.parent / "captions.csv").write_text("\n".join(rows))
    (tmp_path / "pets.toml").write_text(recipe.text.replace("epochs = 5", "epochs = 1"))
    (tmp_path / "captioner").symlink_to(ROOT / "captioner")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPTIONER_DATA", "my-data")
    assert cli.main(["data", "check", "pets.toml"]) == 0
    assert train.main(["pets.toml", "--device", "cpu"]) == 0
    trained, bundled = (
        load_checkpoint(Path(folder))[0] for folder in ("runs/pets/best", "captioner/pretrained/flickr8k-soft")
    )
    assert not torch.equal(trained.decoder.output_word.weight, bundled.decoder.output_word.weight)
    assert evaluate.main(["captioner/pretrained/flickr8k-soft", "runs/pets/best", "--data", "pets.toml"]) == 0
    caption = ["caption", str(photos[0]), "--checkpoint", "runs/pets/best", "--output", "captions.jsonl"]
    assert cli.main([*caption, "--device", "cpu"]) == 0
    assert '"caption": "a' in Path("captions.jsonl").read_text()


def test_nothing_is_left_to_be_filled_in() -> None:
    for document in DOCUMENTS:
        text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(encoding="utf-8"), flags=re.S)
        assert not re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b|TODO|FIXME", text), document


def test_no_block_is_passed_over() -> None:
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    fences = {fence for text in texts for fence in re.findall(r"^[ \t]*```.*", text, re.M)}
    assert fences == {"```", "```sh", "```python", "```toml"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_files_named_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(r"`((?:captioner|app|docs|recipes|tests|benchmarks|examples)/[\w./-]+)`", text)
    absent = [link for link in links if not (document.parent / link).exists()]
    absent += [name for name in named if not (ROOT / name).exists()]
    assert not absent


@needs_data("coco-mini")
def test_the_photos_of_coco_that_figures_are_of_are_those_listed(tmp_path: Path) -> None:
    mini = Path(os.environ[DATA_VARIABLE], "coco-mini")
    command = [sys.executable, "docs/make_coco_mini.py", str(mini), str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    paths = [path.relative_to(mini) for path in mini.rglob("*") if path.is_file()]
    assert len(paths) == 159 + 4
    for path in paths:
        read = json.loads if path.suffix == ".json" else bytes
        assert read((tmp_path / path).read_bytes()) == read((mini / path).read_bytes()), path
