"""Several processes training one model, as `torchrun` starts them: each computes its share of every step."""

from __future__ import annotations

import datetime
import os
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from captioner.errors import CaptionerError

Item = TypeVar("Item")
_TIMEOUT = datetime.timedelta(minutes=30)  # for the slowest share of a validation


def own_device(device: torch.device) -> torch.device:
    """Choose, of several GPUs, the one of this process.

    Raises
    ------
    CaptionerError
        If there are more processes than GPUs, or others are spoken of and not how to find them.
    """
    if processes() < 2:
        return device
    absent = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise CaptionerError(
            f"WORLD_SIZE = {processes()} is set and {', '.join(absent)} not; start the processes with torchrun, or "
            "unset WORLD_SIZE to train in one"
        )
    if device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))  # some clusters start one process a machine, and set none
    if local >= torch.cuda.device_count():
        raise CaptionerError(
            f"--nproc-per-node asks for more processes than there are GPUs ({torch.cuda.device_count()})"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def join(device: torch.device) -> None:
    """Find the other processes, if `torchrun` started this one; all that only one of them does must be done by then."""
    if processes() > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)


def leave() -> None:
    """Part from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; the one with number 0 writes."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Count the processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share(items: list[Item]) -> list[Item]:
    """Take every n-th of the items, n being the number of processes; together the processes have them all."""
    return items[rank() :: processes()]


def gather(own: list[Item]) -> list[Item]:
    """Undo `share`: on every process, all items in their order."""
    if processes() == 1:
        return own
    parts: list[list[Item]] = [[] for _ in range(processes())]
    dist.all_gather_object(parts, own)
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]


def add_over_processes(tensor: Tensor) -> None:
    """Add up, in place, what every process has."""
    if processes() > 1:
        dist.all_reduce(tensor)


def any_of_processes(flags: list[bool], device: torch.device) -> list[bool]:
    """Whether each of the flags is up in any process, so that all do the same."""
    if processes() == 1:
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]
