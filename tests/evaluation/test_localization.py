from __future__ import annotations

import numpy as np
import pytest

from captioner.data.instances import Instances
from captioner.evaluation.localization import Pointed, point
from captioner.metrics.attention import centre
from captioner.pipeline import Caption


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


# A dog in the top left quarter, two people along the right side, and a cat at the far left.
PHOTO = Instances(
    160,
    80,
    {
        "dog": (rectangle(0, 0, 80, 40),),
        "person": (rectangle(120, 0, 160, 40), rectangle(120, 40, 160, 80)),
        "cat": (rectangle(0, 0, 10, 80),),
    },
)


def maps(*cells: tuple[int, int]) -> np.ndarray:
    attention = np.zeros((len(cells), 4, 4), np.float32)
    for word, cell in enumerate(cells):
        attention[word][cell] = 1
    return attention


def caption(words: str, attention: np.ndarray, **changes: object) -> Caption:
    split = tuple(words.split())
    seen = {"betas": (0.5,) * len(split), "ended": True}
    values = {"width": 160, "height": 80, "region": (0.0, 0.0, 160.0, 80.0), **seen, **changes}
    return Caption(words, split, -1.0, (0.5,) * len(split), attention, None, **values)  # type: ignore[arg-type]


def test_words_count_by_the_object_they_name() -> None:
    # The dog is looked for where it is, the man where the dog is; the horse is not there.
    said = caption("a dog man horse", maps((0, 0), (1, 1), (0, 0), (0, 0)))
    found = point(said, PHOTO)
    assert (found.words, found.absent) == (2, 1)
    assert found.pointing == 1
    assert found.mass == pytest.approx(1)
    assert found.area == pytest.approx(0.25 + 0.25)
    # Of 16 centres, 40 x 20 pixels apart, the dog has 4, and 2 more at 10 pixels below it; the people have 4.
    assert found.pointing_uniform == pytest.approx((6 + 4) / 16)
    # The four central cells tie; the dog has one, and one 10 pixels below it.
    assert found.pointing_centre == pytest.approx(2 / 4)
    assert found.mass_centre == pytest.approx(centre(4, 4)[:2, :2].sum() + centre(4, 4)[:, 3].sum())


def test_attention_is_that_of_the_last_word_of_a_phrase() -> None:
    photo = Instances(160, 80, {"hot dog": (rectangle(0, 0, 40, 20),)})
    assert point(caption("hot dog", maps((3, 3), (0, 0))), photo).mass == pytest.approx(1)
    assert point(caption("hot dog", maps((0, 0), (3, 3))), photo).mass == pytest.approx(0)


def test_what_a_crop_leaves_out_is_absent() -> None:
    cropped = {"region": (40.0, 0.0, 120.0, 80.0)}
    assert point(caption("cat", maps((0, 0)), **cropped), PHOTO) == Pointed(absent=1)
    dog = point(caption("dog", maps((1, 1)), **cropped), PHOTO)
    assert dog.area == pytest.approx(0.25)
    assert dog.mass == pytest.approx(1)


def test_a_smaller_copy_of_the_photo_is_the_same() -> None:
    whole = point(caption("dog man", maps((0, 1), (2, 3))), PHOTO)
    half = point(caption("dog man", maps((0, 1), (2, 3)), width=80, height=40, region=(0.0, 0.0, 80.0, 40.0)), PHOTO)
    assert half == whole
