from __future__ import annotations

import numpy as np
import pytest

from captioner.metrics.attention import entropy, movement


def one_cell(row: int, column: int) -> np.ndarray:
    weights = np.zeros((4, 4), np.float32)
    weights[row, column] = 1
    return weights


FLAT = np.full((4, 4), 1 / 16, np.float32)


def test_entropy_runs_from_one_cell_to_all() -> None:
    assert entropy(np.stack([one_cell(0, 0)])) == 0
    assert entropy(np.stack([FLAT])) == pytest.approx(4)
    assert entropy(np.stack([FLAT, one_cell(1, 2)])) == pytest.approx(2)
    assert entropy(np.stack([(one_cell(0, 0) + one_cell(3, 3)) / 2])) == pytest.approx(1)


def test_movement_is_the_share_that_went_elsewhere() -> None:
    assert movement(np.stack([FLAT])) == 0
    assert movement(np.stack([FLAT, FLAT])) == 0
    assert movement(np.stack([one_cell(0, 0), one_cell(0, 0), one_cell(2, 1)])) == 1
    assert movement(np.stack([FLAT, one_cell(0, 0)])) == pytest.approx(15 / 16)
