from __future__ import annotations

import logging
import os
import re
import tomllib
from pathlib import Path

import pytest

from captioner.data.annotations import DATA_VARIABLE, CaptionedImage, for_scoring, read_split, with_words
from captioner.data.readers import READERS
from captioner.errors import CaptionerError, DatasetError
from captioner.recipe import DataConfig
from tests.conftest import needs_data


def test_captions_are_read_untouched(flickr_folder: Path) -> None:
    images = read_split(DataConfig(root=str(flickr_folder)), "train")
    assert len(images) == 24
    assert images[1].path == flickr_folder / "images" / "photo1.jpg"
    assert images[1].captions[1] == "A big cat sits in water ."


def test_absent_photos_are_reported_and_passed_over(flickr_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (flickr_folder / "images" / "photo25.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        images = read_split(DataConfig(root=str(flickr_folder)), "dev")
    assert len(images) == 5
    assert caplog.messages == ["dev split: 1 of 6 photos absent, passed over: photo25.jpg"]


def test_a_split_without_photos_is_refused(flickr_folder: Path) -> None:
    for path in (flickr_folder / "images").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="none of its 6 photos"):
        read_split(DataConfig(root=str(flickr_folder)), "dev")


def test_an_unknown_split_and_a_missing_folder_are_named(flickr_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no val split: .*Flickr_8k\.trainImages\.txt"):
        read_split(DataConfig(root=str(flickr_folder)), "val")
    with pytest.raises(DatasetError, match="nowhere"):
        read_split(DataConfig(root=str(tmp_path / "nowhere")), "train")


def test_a_photo_without_captions_is_named(flickr_folder: Path) -> None:
    path = flickr_folder / "Flickr_8k.devImages.txt"
    path.write_text(path.read_text() + "stranger.jpg\n")
    with pytest.raises(DatasetError, match=r"no caption for stranger\.jpg"):
        read_split(DataConfig(root=str(flickr_folder)), "dev")


def test_a_relative_root_is_under_the_data_variable(flickr_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(flickr_folder.parent))
    assert len(read_split(DataConfig(root="flickr8k"), "dev")) == 6
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(DatasetError, match=f"set the environment variable {DATA_VARIABLE}"):
        read_split(DataConfig(root="flickr8k"), "dev")


def test_settings_that_do_not_fit_the_format_are_refused() -> None:
    with pytest.raises(CaptionerError, match=r"captions = 'all\.json': with format = 'coco'.*\{split\}"):
        DataConfig("x", "coco", captions="all.json")
    with pytest.raises(CaptionerError, match=r"images = 'photos': with format = 'folder'.*\{split\}"):
        DataConfig("x", "folder", images="photos")
    with pytest.raises(CaptionerError, match=r"captions = 'texts': .*leave it out"):
        DataConfig("x", "folder", captions="texts")


def test_captions_without_a_word_are_no_references(caplog: pytest.LogCaptureFixture) -> None:
    one, two, none = (
        CaptionedImage(Path(f"{number}.jpg"), captions)
        for number, captions in enumerate((("A dog.", "...", "!"), ("A cat.",), ("...",)))
    )
    assert [image.captions for image in for_scoring([one, two], "dev")] == [("A dog.",), ("A cat.",)]
    assert caplog.messages == ["0.jpg: 2 of 3 captions have no word, passed over"]
    assert [image.captions for image in with_words([one, none, two], "train")] == [("A dog.",), ("A cat.",)]
    assert caplog.messages[-1] == "2.jpg: 1 of 1 captions have no word, passed over, as is the photo"
    with pytest.raises(DatasetError, match="train split: no caption has a word"):
        with_words([none], "train")
    twice = CaptionedImage(one.path, none.captions)
    with pytest.raises(DatasetError, match=r"dev split: 0\.jpg: no caption with a word"):
        for_scoring([one, twice, two], "dev")
    with pytest.raises(DatasetError, match=r"dev split: 2\.jpg: no caption with a word \(1 such photos\)"):
        for_scoring([one, none, two], "dev")
    with pytest.raises(DatasetError, match="dev split: one photo alone"):
        for_scoring([one], "dev")


def test_every_table_in_the_guide_is_a_valid_one() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    tables = [tomllib.loads(table)["data"] for table in re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)]
    assert {DataConfig.from_dict(table).format for table in tables} == set(READERS)


@needs_data("flickr8k")
def test_the_real_files() -> None:
    config = DataConfig(root="flickr8k")
    train, dev = read_split(config, "train"), read_split(config, "dev")
    root = Path(os.environ[DATA_VARIABLE], "flickr8k")
    listed = (root / "Flickr_8k.trainImages.txt").read_text().split()
    assert len(listed) == 6000
    # Most copies lack one photo.
    assert len(train) == sum((root / "images" / name).is_file() for name in listed) >= 5999
    assert len(dev) == 1000
    assert all(len(image.captions) == 5 for image in train + dev)
    assert not {image.path for image in train} & {image.path for image in dev}


@needs_data("coco-mini")
def test_the_official_coco_files() -> None:
    config = DataConfig("coco-mini", "coco")
    train, dev = read_split(config, "train"), read_split(config, "dev")
    assert (len(train), len(dev)) == (80, 79)
    assert sum(len(image.captions) for image in train + dev) == 795
    assert all(len(image.captions) >= 5 for image in train + dev)
    plane = next(image for image in dev if image.path.name == "000000205401.jpg")
    assert "A plane floating on top of a lake surrounded by mountains." in plane.captions
