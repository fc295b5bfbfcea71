from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner.data.annotations import DATA_VARIABLE
from captioner.data.instances import category_words, instances_beside, named_categories, read_instances
from captioner.errors import DatasetError
from captioner.recipe import DataConfig
from captioner.vocabulary import tokenize
from tests.conftest import needs_data

DATA = Path(os.environ.get(DATA_VARIABLE, "")) / "coco-mini"

SQUARE = [[2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]]
# Down the columns: 3 free, 2 covered, the rest of 10 x 8 free.
RUNS = {"size": [8, 10], "counts": [3, 2, 75]}


def annotation(segmentation: Any, category: int = 1, image: int = 7) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0}


def written(folder: Path, *annotations: dict[str, Any]) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 10, "height": 8},
            {"id": 8, "file_name": "b.jpg", "width": 6, "height": 6},
        ],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "hot dog"}],
        "annotations": list(annotations),
    }
    path = folder / "instances_val2017.json"
    path.write_text(json.dumps(content))
    return path


def test_words_name_the_80_categories_as_captions_are_tokenised() -> None:
    words = category_words()
    assert len(set(words.values()) - {None}) == 80
    for phrase in words:
        assert " ".join(tokenize(phrase)) == phrase
    assert words["puppy"] == "dog"
    assert "orange" not in words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man throws a frisbee to his dog", [(1, "person"), (4, "frisbee"), (7, "dog")]),
        ("a teddy bear eats a hot dog", [(2, "teddy bear"), (6, "hot dog")]),
        ("a bear eats a dog", [(1, "bear"), (4, "dog")]),
        ("the bus stop near a traffic light", [(6, "traffic light")]),
        ("a baby elephant and a baby", [(2, "elephant"), (5, "person")]),
        ("an orange shirt", []),
        ("hot", []),
        ("", []),
    ],
)
def test_longest_phrase_counts_at_its_last_word(caption: str, expected: list[tuple[int, str]]) -> None:
    assert named_categories(caption.split()) == expected


def test_mask_is_of_all_objects_of_a_category_together(tmp_path: Path) -> None:
    path = written(tmp_path, annotation(SQUARE), annotation(RUNS), annotation([[0, 6, 10, 6, 10, 8, 0, 8]], category=2))
    instances = read_instances(path)
    expected = np.zeros((8, 10), bool)
    expected[1:4, 2:6] = True
    expected[3:5, 0] = True
    np.testing.assert_array_equal(instances["a.jpg"].mask("dog"), expected)
    assert instances["a.jpg"].mask("hot dog").sum() == 20
    assert instances["a.jpg"].mask("cat").sum() == 0
    assert instances["b.jpg"].segmentations == {}
    assert instances["b.jpg"].mask("dog").shape == (6, 6)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 1, 2, 2]],
        [[1, 1, 2, 2, 3, 3, 4]],
        [[1, 1, 2, 2, 3, float("nan")]],
        [["1", "1", "2", "2", "3", "3"]],
        {"size": [10, 8], "counts": [3, 2, 75]},
        {"size": [8, 10], "counts": [3, 2, 76]},
        {"size": [8, 10], "counts": [3, -2, 79]},
        {"size": [8, 10], "counts": "32[2"},
    ],
)
def test_bad_outlines_are_refused_by_file_and_number(tmp_path: Path, segmentation: Any) -> None:
    path = written(tmp_path, annotation(SQUARE), annotation(segmentation))
    with pytest.raises(DatasetError, match=r"instances_val2017\.json: annotations\[1\]: .*get a whole copy"):
        read_instances(path)


def test_objects_of_unknown_photos_and_categories_are_refused(tmp_path: Path) -> None:
    for bad in (annotation(SQUARE, image=9), annotation(SQUARE, category=9)):
        with pytest.raises(DatasetError, match=r"annotations\[0\]: image \d or category \d"):
            read_instances(written(tmp_path, bad))
    with pytest.raises(DatasetError, match=r"none\.json: cannot be read"):
        read_instances(tmp_path / "none.json")


def test_instances_are_found_beside_the_captions(tmp_path: Path) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    coco = DataConfig(root=str(tmp_path), format="coco")
    for name in ("captions_val2014", "instances_val2014", "instances_val2017"):
        (folder / f"{name}.json").touch()
    assert instances_beside(coco, "dev") == folder / "instances_val2014.json"
    (folder / "captions_val2017.json").touch()
    assert instances_beside(coco, "dev") == folder / "instances_val2017.json"
    older = DataConfig(root=str(tmp_path), format="coco", captions="annotations/captions_{split}2014.json")
    assert instances_beside(older, "dev") == folder / "instances_val2014.json"
    (folder / "captions_train2017.json").touch()
    assert instances_beside(coco, "train") is None
    karpathy = DataConfig(root=str(tmp_path), format="karpathy")
    assert instances_beside(karpathy, "test") == folder / "instances_val2014.json"
    assert instances_beside(karpathy, "train") is None
    assert instances_beside(DataConfig(root=str(tmp_path), format="csv"), "dev") is None


@needs_data("coco-mini")
def test_masks_of_real_photos_are_as_large_as_coco_says() -> None:
    config = DataConfig(root=str(DATA), format="coco")
    path = instances_beside(config, "dev")
    assert path is not None
    content = json.loads(path.read_text())
    instances = read_instances(path)
    assert set().union(*(photo.segmentations for photo in instances.values())) <= set(category_words().values())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    categories = {category["id"]: category["name"] for category in content["categories"]}
    alone = {(a["image_id"], a["category_id"]): a for a in content["annotations"]}
    checked = 0
    for (image, category), record in alone.items():
        photo = instances[names[image]]
        if len(photo.segmentations[categories[category]]) == 1 and record["area"] > 2000:
            assert photo.mask(categories[category]).sum() == pytest.approx(record["area"], rel=0.05)
            checked += 1
    assert checked > 50
