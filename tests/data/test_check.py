from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from captioner.checkpoint_files import BUNDLED
from captioner.cli import main
from captioner.data.annotations import DATA_VARIABLE, read_split
from captioner.data.check import DataReport, check_data
from captioner.errors import DatasetError, MissingSplitError
from captioner.recipe import DataConfig
from captioner.vocabulary import Vocabulary
from tests.conftest import needs_data, noise_photo


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of folders: three photos to train on, two for dev, no test."""
    captions = {
        "train/a": "A dog runs.\nA dog.",
        "train/b": "A dog sits.",
        "train/c": "A cat sits on the green grass.",
        "dev/d": "A cat runs.",
        "dev/e": "A bird sits.",
    }
    for seed, (name, text) in enumerate(captions.items()):
        path = tmp_path / "data" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_photo(seed).save(path)
        path.with_suffix(".txt").write_text(text)
    return tmp_path / "data"


def check(root: Path, **settings: int) -> DataReport:
    return check_data(DataConfig(str(root), "folder", **{"min_count": 2, **settings}))  # type: ignore[arg-type]


def test_figures_are_those_counted_by_hand(root: Path) -> None:
    report = check(root, max_length=3)
    train, dev = report.splits["train"], report.splits["dev"]
    assert (train.photos, dev.photos) == (3, 2)
    assert train.captions_per_photo == Counter({2: 1, 1: 2})
    assert train.lengths == Counter({3: 2, 2: 1, 7: 1})
    assert dev.lengths == Counter({3: 2})
    # Seen twice in train: a, dog, sits; not: runs, cat, on, the, green, grass.
    assert report.vocabulary_size == 4 + 3
    assert train.covered == pytest.approx(9 / 15)
    assert dev.covered == pytest.approx(3 / 6)
    assert report.problems == []
    assert list(report.lacking) == ["test"]
    lines = [line.split() for line in str(report).splitlines()]
    assert ["photos", "3", "2"] in lines
    assert ["over", "3", "words", "1", "(25.00%)", "0", "(0.00%)"] in lines
    assert ["nothing", "wrong"] in lines
    assert any("no test split" in line for line in str(report).splitlines())


def test_the_histogram_holds_every_caption_once(root: Path) -> None:
    lines = str(check(root)).splitlines()
    first = lines.index("caption lengths in words") + 2
    rows = [line.split() for line in lines[first : first + 8]]
    assert [row[0] for row in rows] == [str(length) for length in range(8)]
    assert sum(float(row[1].rstrip("%")) for row in rows) == pytest.approx(100)
    # One scale for both splits, so all of dev in one row is the longest bar.
    assert rows[3] == ["3", "50.0%", "#" * 10, "100.0%", "#" * 20]


def test_damaged_absent_and_wordless_are_told_apart(root: Path, flickr_folder: Path) -> None:
    photo = root / "train" / "a.jpg"
    photo.write_bytes(photo.read_bytes()[:-200])
    (root / "dev" / "e.txt").write_text("...\n")
    damaged, wordless = check(root).problems
    assert damaged.startswith("train: 1 photo unreadable\n")
    assert f"{photo}: damaged or cut short" in damaged
    assert wordless == "dev: captions without a word: 1"
    for number in range(17):
        (flickr_folder / "images" / f"photo{number}.jpg").unlink()
    report = check_data(DataConfig(str(flickr_folder), min_count=1))
    assert report.splits["train"].absent == [f"images/photo{number}.jpg" for number in range(17)]
    assert (report.splits["train"].photos, report.splits["train"].captions_per_photo) == (24, Counter({5: 7}))
    (problem,) = report.problems
    assert problem.splitlines()[0] == "train: 17 photos absent"
    assert problem.splitlines()[-1].strip() == "and 12 more"


def test_photos_that_are_still_to_come_are_all_absent(flickr_folder: Path) -> None:
    for photo in (flickr_folder / "images").iterdir():
        photo.unlink()
    report = check_data(DataConfig(str(flickr_folder)))
    found = [problem.splitlines()[0] for problem in report.problems]
    assert {"train: 24 photos absent", "dev: 6 photos absent"} < set(found)
    assert "dev: 6 photos absent" in str(report)


def test_the_vocabulary_is_the_one_training_builds(flickr_folder: Path) -> None:
    (flickr_folder / "images" / "photo3.jpg").unlink()
    config = DataConfig(str(flickr_folder), min_count=30)
    captions = [caption for image in read_split(config, "train") for caption in image.captions]
    assert check_data(config).vocabulary_size == len(Vocabulary.build(captions, 30))


def test_a_start_brings_its_own_words(flickr_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    text = f'[data]\nroot = "{flickr_folder}"\nmin_count = 1000\n[encoder]\nname = "resnet18"\n[train]\nstart = "%s"\n'
    recipe.write_text(text % BUNDLED)
    assert main(["data", "check", str(recipe)]) == 0
    printed = capsys.readouterr().out
    assert f"vocabulary: 2,536 words of {BUNDLED}, and 4 special ones" in printed
    covered, _ = re.findall(r"([\d.]+)%", next(line for line in printed.splitlines() if "words in voc" in line))
    assert 90 < float(covered) <= 100
    # One that is yet to be trained says nothing of them.
    recipe.write_text(text % (tmp_path / "runs" / "first" / "best"))
    assert main(["data", "check", str(recipe)]) == 3
    printed = capsys.readouterr().out
    assert f"in train ({tmp_path / 'runs' / 'first' / 'best'}, which training starts from, is not there yet)" in printed
    assert "wrong  train: no word has a count of 1000; lower data.min_count" in printed


def test_a_photo_in_two_splits_is_found_by_its_path_and_by_its_bytes(root: Path) -> None:
    shutil.copy(root / "train" / "b.jpg", root / "dev" / "other.jpg")
    (root / "dev" / "other.txt").write_text("A dog.")
    report = check(root)
    assert report.shared == [{"train": "train/b.jpg", "dev": "dev/other.jpg"}]
    assert report.problems == ["train and dev: 1 photo in common\n       train/b.jpg = dev/other.jpg"]
    (root / "both.csv").write_text(
        "image,caption,split\ntrain/a.jpg,A dog.,train\ntrain/a.jpg,A dog.,val\ngone.jpg,A.,train\ngone.jpg,A.,test\n"
    )
    report = check_data(DataConfig(str(root), "csv", captions="both.csv"))
    assert report.shared == [
        {"train": "train/a.jpg", "dev": "train/a.jpg"},
        {"train": "gone.jpg", "test": "gone.jpg"},
    ]
    assert report.problems[-2:] == [
        "train and dev: 1 photo in common\n       train/a.jpg",
        "train and test: 1 photo in common\n       gone.jpg",
    ]


def test_an_empty_split_is_wrong_and_a_missing_one_cannot_be_trained_on(root: Path) -> None:
    for path in (root / "dev").iterdir():
        path.unlink()
    report = check(root)
    assert report.problems == ["dev: holds no photo"]
    assert "nothing wrong" not in str(report)
    (root / "dev").rmdir()
    with pytest.raises(MissingSplitError, match="no dev split"):
        check(root)


def test_what_training_would_refuse_is_wrong(root: Path) -> None:
    (root / "dev" / "e.jpg").unlink()
    (root / "dev" / "e.txt").unlink()
    assert check(root, min_count=9).problems == [
        "dev: holds one photo alone, which cannot be scored",
        "train: no word has a count of 9; lower data.min_count",
    ]


def test_what_cannot_be_read_is_an_error_for_the_test_split_too(root: Path) -> None:
    (root / "test").mkdir()
    noise_photo(9).save(root / "test" / "f.jpg")
    with pytest.raises(DatasetError, match=r"f\.jpg: no captions beside it"):
        check(root)


@needs_data("flickr8k")
def test_flickr8k_itself() -> None:
    flickr = check_data(DataConfig("flickr8k"))
    photo = "images/3050606344_af711c726c.jpg"  # which most copies lack
    is_there = Path(os.environ[DATA_VARIABLE], "flickr8k", photo).is_file()
    absent = [] if is_there else [["train:", "1", "photo", "absent", photo]]
    assert [problem.split() for problem in flickr.problems] == absent
    assert flickr.splits["dev"].captions_per_photo == Counter({5: 1000})


@needs_data("coco-mini")
def test_photos_of_coco() -> None:
    coco = check_data(DataConfig("coco-mini", "coco"))
    assert coco.problems == []
    assert coco.splits["train"].photos == 80
