from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser

from captioner.config import DecoderConfig, EncoderConfig, ModelConfig
from captioner.data.annotations import DATA_VARIABLE
from captioner.data.dataset import Batch, Totals
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.app.browsing import CHROMIUM, browsing

EXAMPLES = Path(__file__).parent.parent / "examples"
T = TypeVar("T")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="as many cases as `make stress` has")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "tally" and report.when == "call":
                terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Whatever ran before, random weights are the same."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def effort(request: pytest.FixtureRequest) -> Callable[[T, T], T]:
    """`effort(short, long)`: how much of something there is in every run of the tests, and in `make stress`."""
    return lambda short, long: long if request.config.getoption("--long") else short


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say, at the end of all tests, what was counted."""
    return lambda line: record_property("tally", line)


@pytest.fixture(scope="session")
def captioner() -> Captioner:
    """The bundled model."""
    return Captioner.load(device="cpu", precision="float32")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real Chromium, one for all tests: Playwright allows no second at the same time."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; install Debian's chromium")
    with browsing() as browser:
        yield browser


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(["a", "dog", "cat", "runs", "sits", "on", "grass", "red", "ball"])


@pytest.fixture
def tiny_model(vocabulary: Vocabulary) -> ShowAttendTell:
    """A real model, small and with random weights."""
    torch.manual_seed(0)
    encoder = EncoderConfig("squeezenet1_1", weights="none", input_size=64)
    return ShowAttendTell(ModelConfig(encoder, DecoderConfig(12, 16, 8), len(vocabulary))).eval()


def whole_batch(features: torch.Tensor, tokens: torch.Tensor, pad: int = 0) -> Batch:
    """A step in one batch."""
    real = tokens[:, :, 1:] != pad
    totals = Totals(len(tokens), int(real.any(2).sum()), int(real.sum()))
    return Batch(features, tokens, totals, tuple(range(len(tokens))))


def has_data(folder: str) -> bool:
    """Say whether this folder of real data is at hand."""
    return DATA_VARIABLE in os.environ and Path(os.environ[DATA_VARIABLE], folder).is_dir()


def needs_data(folder: str) -> pytest.MarkDecorator:
    """Skip a test where this folder of real data is not at hand."""
    reason = f"real data: set {DATA_VARIABLE} to the folder that holds {folder}/"
    return pytest.mark.skipif(not has_data(folder), reason=reason)


def noise_photo(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    """A photo-like picture: smooth noise, so that JPEG keeps it."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Java takes its ten seconds to start, and its metrics have tests of their own."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def flickr_folder(tmp_path: Path) -> Path:
    """A small data set of made-up photos in Flickr8k's official format."""
    return write_flickr(tmp_path / "flickr8k")


def write_flickr(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    nouns, verbs, places = ["dog", "cat", "man", "girl"], ["runs", "sits", "jumps"], ["on grass", "in water", "at home"]
    lines = []
    for split, count, offset in (("train", 24, 0), ("dev", 6, 24)):
        names = [f"photo{index}.jpg" for index in range(offset, offset + count)]
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for index, name in enumerate(names, offset):
            noise_photo(index).save(root / "images" / name)
            words = nouns[index % 4], verbs[index % 3], places[index % 3]
            for k, adjective in enumerate(["", "big ", "small ", "very happy ", "wet "]):
                lines.append(f"{name}#{k}\tA {adjective}{words[0]} {words[1]} {words[2]} .")
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    return root
