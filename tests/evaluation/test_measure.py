from __future__ import annotations

import logging
from pathlib import Path

import pytest

from captioner.config import DecodingOptions
from captioner.data.annotations import CaptionedImage
from captioner.data.instances import Instances
from captioner.evaluation import measure as room
from captioner.evaluation.measure import measure
from captioner.images import load_image
from captioner.pipeline import Captioner
from tests.conftest import noise_photo

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def images(tmp_path: Path) -> list[CaptionedImage]:
    found = []
    for number in range(5):
        noise_photo(number).save(tmp_path / f"{number}.png")
        found.append(CaptionedImage(tmp_path / f"{number}.png", ("A dog runs .", f"{number} cats")))
    return found


def test_figures_depend_on_no_batch_and_on_nothing_measured_beside(
    captioner: Captioner, images: list[CaptionedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = DecodingOptions(beam_size=1), DecodingOptions(beam_size=2)
    first, beside = measure(captioner, images, [one, two], deletion=True)
    monkeypatch.setattr(room, "_BATCH", 2)
    (alone,) = measure(captioner, images, [two], deletion=True)
    assert alone.texts == beside.texts
    for name, rows in beside.statistics.items():
        assert len(rows) == len(images)
        for row, other in zip(rows, alone.statistics[name], strict=True):
            assert row == pytest.approx(other, abs=1e-3), name
    assert [len(measured.words) for measured in (first, beside)] == [5, 5]
    assert {name for name in first.statistics if "deletion" in name} != set()


def test_objects_count_where_outlines_fit_the_photo(captioner: Captioner, caplog: pytest.LogCaptureFixture) -> None:
    images = [CaptionedImage(path, ("A photo .",)) for path in sorted(EXAMPLES.glob("*.jpg"))[:4]]
    people = [image for image in images if "man" in captioner.caption(image.path).words]
    assert people
    instances = {}
    for image in images:
        width, height = load_image(image.path).size
        whole = [[0.0, 0.0, width, 0.0, width, height, 0.0, height]]
        instances[image.path.name] = Instances(width, height, {"person": (whole,)})
    (measured,) = measure(captioner, images, [DecodingOptions()], instances=instances)
    assert "have no outlines" not in caplog.text
    # What covers the whole photo has all attention and all area.
    scores = measured.scores()
    assert scores["objects: attention over area"].value == pytest.approx(1, abs=1e-3)
    assert scores["objects: pointed at"].value == pytest.approx(100)
    assert scores["objects: pointed at"].statistics[:, 1].sum() >= len(people)
    turned = instances[people[0].path.name]
    instances[people[0].path.name] = Instances(turned.height, 2 * turned.width, turned.segmentations)
    del instances[next(image.path.name for image in images if image not in people[:1])]
    with caplog.at_level(logging.WARNING):
        (measured,) = measure(captioner, images, [DecodingOptions()], instances=instances)
    assert f"2 of {len(images)} photos have no outlines, or others than theirs" in caplog.text
    assert measured.statistics["objects: pointed at"][images.index(people[0])] == (0, 0)
