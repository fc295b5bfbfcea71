"""Two real processes that share a step, over gloo."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from captioner.data.dataset import Batch
from captioner.recipe import HardAttentionConfig
from captioner.training.distributed import any_of_processes, gather, processes, rank, share
from captioner.training.hard_attention import HardAttention
from tests.conftest import whole_batch
from tests.training.test_hard_attention import PAD, PADDED, tiny_decoder

ESTIMATORS = ["paper", "per_word"]
CPU = torch.device("cpu")


def in_a_process(number: int, folder: Path) -> None:
    """Do everything the tests look at, and write it down."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    whole = four_images()
    own = whole._replace(features=whole.features[number::2], tokens=whole.tokens[number::2])
    found = {
        "number": rank(),
        "shares": [share(list(range(count))) for count in range(6)],
        "gathered": [gather(share(list(range(count)))) for count in range(6)],
        "flags": any_of_processes([number == 0, number == 1, False], CPU),
        "baselines": [baseline_after(own, estimator) for estimator in ESTIMATORS],
    }
    torch.save(found, folder / f"{number}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(in_a_process, (folder,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    return [torch.load(folder / f"{number}.pt") for number in range(2)]


def four_images() -> Batch:
    features = torch.randn(4, 1, 4, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    return whole_batch(features, torch.cat([PADDED, PADDED.flip(0)]))


def baseline_after(batch: Batch, estimator: str) -> Tensor:
    """With one cell there is nothing to draw, so that shares can be compared with the whole."""
    config = HardAttentionConfig(estimator, sampling=1.0)  # type: ignore[arg-type]
    objective = HardAttention(PAD, 7, 0.0, config, steps=1)
    objective(tiny_decoder(), batch)
    return objective.baseline


def test_shares_are_put_together_again_in_order(found: list[dict[str, Any]]) -> None:
    assert [result["number"] for result in found] == [0, 1]
    for count in range(6):
        first, second = (result["shares"][count] for result in found)
        assert sorted(first + second) == list(range(count))
        assert 0 <= len(first) - len(second) <= 1
        assert all(result["gathered"][count] == list(range(count)) for result in found)


def test_a_flag_of_one_is_a_flag_of_all(found: list[dict[str, Any]]) -> None:
    assert [result["flags"] for result in found] == [[True, True, False]] * 2


def test_several_processes_have_the_baselines_of_one(found: list[dict[str, Any]]) -> None:
    for number, estimator in enumerate(ESTIMATORS):
        expected = baseline_after(four_images(), estimator)
        for result in found:
            assert torch.allclose(result["baselines"][number], expected, atol=1e-6)


def test_one_process_has_everything() -> None:
    assert (rank(), processes()) == (0, 1)
    assert gather(share([1, 2, 3])) == [1, 2, 3]
    assert any_of_processes([True, False], CPU) == [True, False]
