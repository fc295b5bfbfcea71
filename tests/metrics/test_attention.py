from __future__ import annotations

import numpy as np
import pytest

from captioner.metrics.attention import area, centre, coverage, entropies, mass, movement, pointing, uniform


def one_cell(row: int, column: int) -> np.ndarray:
    weights = np.zeros((4, 4), np.float32)
    weights[row, column] = 1
    return weights


FLAT = np.full((4, 4), 1 / 16, np.float32)


def test_entropy_runs_from_one_cell_to_all() -> None:
    maps = np.stack([one_cell(0, 0), FLAT, (one_cell(0, 0) + one_cell(3, 3)) / 2])
    assert entropies(maps) == pytest.approx([0, 4, 1])


def test_movement_is_the_share_that_went_elsewhere() -> None:
    assert movement(np.stack([FLAT])) == 0
    assert movement(np.stack([FLAT, FLAT])) == 0
    assert movement(np.stack([one_cell(0, 0), one_cell(0, 0), one_cell(2, 1)])) == 1
    assert movement(np.stack([FLAT, one_cell(0, 0)])) == pytest.approx(15 / 16)


WHOLE = (0.0, 0.0, 80.0, 80.0)


def object_at(left: int, top: int, right: int, bottom: int, width: int = 80, height: int = 80) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_pointing_knows_rows_from_columns() -> None:
    mask = object_at(0, 60, 20, 80)  # bottom left
    assert pointing(one_cell(3, 0), mask, WHOLE, tolerance=0.8) == 1
    assert pointing(one_cell(0, 3), mask, WHOLE, tolerance=0.8) == 0


def test_pointing_tolerates_so_many_pixels() -> None:
    # The centre of cell (1, 1) is at (30, 30); the nearest pixel of the object has its centre at (30.5, 45.5).
    mask = object_at(0, 45, 80, 80)
    assert pointing(one_cell(1, 1), mask, WHOLE, tolerance=15.6) == 1
    assert pointing(one_cell(1, 1), mask, WHOLE, tolerance=15.4) == 0
    # Within the square about the point, but not within the circle.
    assert pointing(one_cell(1, 1), object_at(42, 42, 80, 80), WHOLE) == 0


def test_pointing_of_a_flat_map_is_what_a_random_cell_gets() -> None:
    mask = object_at(20, 0, 60, 40)
    each = [pointing(one_cell(row, column), mask, WHOLE) for row in range(4) for column in range(4)]
    assert 0 < np.mean(each) < 1
    assert pointing(FLAT, mask, WHOLE) == pytest.approx(np.mean(each))
    assert pointing((one_cell(0, 0) + one_cell(0, 1)) / 2, mask, WHOLE, tolerance=5) == 0.5


def test_objects_outside_the_region_do_not_count() -> None:
    region = (20.0, 0.0, 100.0, 80.0)
    left_out = object_at(0, 0, 20, 80, width=120)
    assert pointing(one_cell(0, 0), left_out, region) == 0
    assert pointing(one_cell(0, 0), left_out, (19.0, 0.0, 99.0, 80.0)) == 1
    assert pointing(one_cell(0, 0), left_out.T, (0.0, 20.0, 80.0, 100.0)) == 0
    assert pointing(one_cell(0, 0), left_out.T, (0.0, 19.0, 80.0, 99.0)) == 1
    assert mass(FLAT, left_out, region) == area(left_out, region) == 0
    across = object_at(0, 0, 60, 80, width=120)
    assert area(across, region) == pytest.approx(0.5)
    assert mass(one_cell(0, 1), across, region) == pytest.approx(1)
    assert mass(one_cell(0, 2), across, region) == pytest.approx(0)


@pytest.mark.parametrize("region", [(0.0, 0.0, 37.0, 23.0), (7.0, 0.0, 30.0, 23.0), (6.5, 1.25, 29.5, 20.0)])
def test_coverage_of_photos_that_the_grid_does_not_divide_evenly(region: tuple[float, float, float, float]) -> None:
    mask = np.random.default_rng(0).random((23, 37)) < 0.4
    left, top, right, bottom = region
    # Every pixel cut into 20 x 20, each of which falls into a cell by its middle.
    fine = mask.repeat(20, 0).repeat(20, 1)
    y, x = (np.arange(n * 20) / 20 + 0.025 for n in mask.shape)
    row, column = np.floor((y - top) / (bottom - top) * 5), np.floor((x - left) / (right - left) * 4)
    expected = [[fine[np.ix_(row == r, column == c)].mean() for c in range(4)] for r in range(5)]
    found = coverage(mask, region, 5, 4)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert area(mask, region) == pytest.approx(found.mean(), abs=1e-6)
    assert mass(uniform(5, 4), mask, region) == pytest.approx(found.mean(), abs=1e-6)
    assert coverage(np.ones_like(mask), region, 5, 4) == pytest.approx(np.ones((5, 4)))


def test_baselines_are_distributions() -> None:
    assert uniform(3, 5).sum() == pytest.approx(1)
    assert len(np.unique(uniform(3, 5))) == 1
    for rows, columns in ((12, 12), (7, 7), (3, 5)):
        middle = centre(rows, columns)
        assert middle.sum() == pytest.approx(1)
        # Exactly symmetric, or the cells about an even grid's centre would not tie.
        np.testing.assert_array_equal(middle, middle[::-1])
        np.testing.assert_array_equal(middle, middle[:, ::-1])
        assert (middle == middle.max()).sum() == (4 if rows % 2 == 0 else 1)
    # One standard deviation, a quarter of the side, off the centre: exp(-1/2).
    assert centre(8, 1)[5, 0] / centre(8, 1)[3, 0] == pytest.approx(np.exp((0.5**2 - 1.5**2) / 8))
