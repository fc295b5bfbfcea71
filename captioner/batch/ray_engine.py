"""Captioning over a cluster, with Ray Data: its machines read the photos, and each of its actors has a model."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.records import outcome
from captioner.errors import PIP, CaptionerError

if TYPE_CHECKING:
    from captioner.pipeline import Captioner

# What an actor is handed at once, and answers at once. Fewer, and handing out would set the pace, and a GPU would stand
# still while the first photos are read; more, and a killed actor would have more to do again.
FILES_PER_TASK = 256
# Ray Data takes lists, not streams. So files are gathered into data sets, in tasks, and actors live as long as their
# data set. The first is small: captions come before ten million files are listed. The largest bounds the memory.
FIRST_SET, LARGEST_SET = 64, 4096
CPUS_PER_ACTOR = 2
# How often files may kill their actor until they are given up.
ATTEMPTS = 5


def run_ray(files: Iterable[ImageFile], job: Job) -> Generator[Outcome, None, None]:
    """Caption files on the cluster at `RAY_ADDRESS`, or on a Ray of this machine if that is not set.

    All machines see the checkpoint and the photos under the same paths. An actor has a GPU if the cluster has any,
    else `CPUS_PER_ACTOR` cores. What a killed actor had begun is done again by its successor.

    Raises
    ------
    CaptionerError
        If Ray is not installed, the cluster cannot be reached, or an actor cannot work at all.
    """
    # Both are read as Ray starts: whether it reports its use over the network, and what its C++ part writes to stderr.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CaptionerError(f'the engine ray is not installed ({error}); {PIP} -e ".[ray]"') from error
    ours = not ray.is_initialized()
    try:
        if ours:
            _connect(ray)
        ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
        tasks, size = _tasks(files), FIRST_SET
        while group := list(islice(tasks, size)):
            yield from _run_set(ray, group, job, ledger)
            size = min(4 * size, LARGEST_SET)
    except ray.exceptions.RayError as error:
        raise CaptionerError(f"Ray cannot go on: {error}") from error
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address, **quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=512 * 2**20, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"the cluster at RAY_ADDRESS = {address}" if address else "a Ray of this machine's own"
        raise CaptionerError(f"{where} cannot be used ({error})") from error


def _tasks(files: Iterable[ImageFile]) -> Iterator[dict[str, Any]]:
    source = iter(files)
    for number in count():
        part = list(islice(source, FILES_PER_TASK))
        if not part:
            return
        # Pickled, for Arrow's strings are UTF-8, and file names need not be.
        yield {"number": number, "files": pickle.dumps(part)}


def _run_set(ray: Any, tasks: list[dict[str, Any]], job: Job, ledger: Any) -> Iterator[Outcome]:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = 0 if job.device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = min(CPUS_PER_ACTOR, int(max(node.get("CPU", 1) for node in nodes)))
    actors = gpus or sum(int(node.get("CPU", 0)) // cpus for node in nodes)
    data = ray.data.from_items(tasks, override_num_blocks=len(tasks))
    data.context.enable_progress_bars = False
    data.context.print_on_execution_start = False
    # An actor may be killed while it loads its model, too.
    data.context.max_consecutive_actor_init_deaths = ATTEMPTS
    # Actors are restarted, and their tasks tried again, without end: that is Ray Data's default.
    answers = data.map_batches(
        Worker,
        fn_constructor_args=(job, Path.cwd(), None if gpus else cpus, ledger),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(actors, len(tasks)))),
        **({"num_gpus": 1} if gpus else {"num_cpus": cpus}),
    )
    for batch in answers.iter_batches(batch_size=None, prefetch_batches=0):
        for pickled in batch["answer"]:
            answer: list[Outcome] | CaptionerError = pickle.loads(pickled)
            if isinstance(answer, CaptionerError):
                raise answer
            yield from answer


class Ledger:
    """An actor that counts, per task, how often it was begun and not ended."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, task: int) -> int:
        """Count this attempt, too."""
        self.begun[task] += 1
        return self.begun[task]

    def end(self, task: int) -> None:
        """Forget the task."""
        self.begun.pop(task, None)


class Worker:
    """What each actor runs: a model, loaded once.

    Parameters
    ----------
    job : Job
        How to caption.
    folder : Path
        Where the run was started, which is where relative paths start.
    threads : int, optional
        Cores for the model; None if it has a GPU.
    ledger : actor handle
        Of a `Ledger`.
    """

    def __init__(self, job: Job, folder: Path, threads: int | None, ledger: Any) -> None:
        import torch

        from captioner.batch.local import load_model

        # A machine without that folder can still be given absolute paths.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        if threads is not None:
            torch.set_num_threads(threads)
        self.job = job
        self.ledger = ledger
        self.captioner: Captioner | CaptionerError
        try:
            self.captioner, self.job = load_model(job)
        # Told as an answer: what an actor raises, Ray prints with all its stack, and wraps so that it is not found.
        except CaptionerError as error:
            self.captioner = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Caption the files of one task."""
        import ray

        (number,), (pickled,) = batch["number"].tolist(), batch["files"]
        files: list[ImageFile] = pickle.loads(pickled)
        answer: list[Outcome] | CaptionerError
        if ray.get(self.ledger.begin.remote(number)) > ATTEMPTS:
            answer = [Outcome(file, None, _given_up(file, len(files))) for file in files]
        else:
            answer = self._caption(files)
        ray.get(self.ledger.end.remote(number))
        return {"answer": [pickle.dumps(answer)]}

    def _caption(self, files: list[ImageFile]) -> list[Outcome] | CaptionerError:
        if isinstance(self.captioner, CaptionerError):
            return self.captioner
        job = self.job
        paths = [file.path for file in files]
        try:
            results = self.captioner.attempt_many(paths, job.options, batch_size=job.batch_size, workers=job.workers)
            return [outcome(file, result, job) for file, (_, result) in zip(files, results, strict=True)]
        except CaptionerError as error:
            return error


def _given_up(file: ImageFile, together: int) -> str:
    return (
        f"{file.path}: {ATTEMPTS} workers died at this file or at one of the {together} they were given together; "
        "caption these files without Ray to find which"
    )
