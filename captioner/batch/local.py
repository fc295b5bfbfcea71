"""The engine that captions in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.records import outcome
from captioner.checkpoint_files import model_id
from captioner.errors import CaptionerError
from captioner.pipeline import Captioner


def load_model(job: Job) -> tuple[Captioner, Job]:
    """Load the model of a job, and give the job with what it left to the device.

    Raises
    ------
    CaptionerError
        If there is no such model or device, or another model is there than the one the records name.
    """
    captioner = Captioner.load(job.checkpoint, job.device, job.precision)
    # Hashed after it was loaded: a run in progress replaces its best model.
    if model_id(job.checkpoint) != job.model:
        raise CaptionerError(
            f"{job.checkpoint}: holds another model than at the start of the run; caption with a copy that stays as it "
            "is, the same on every machine"
        )
    return captioner, replace(job, precision=captioner.precision)


def run_local(files: Iterable[ImageFile], job: Job) -> Generator[Outcome, None, None]:
    """Caption files in order; the model is loaded before the first one is taken.

    Raises
    ------
    CaptionerError
        If the job cannot be done: no such model or device, options that the model cannot follow.
    """
    captioner, job = load_model(job)
    taken: deque[ImageFile] = deque()

    def paths() -> Iterator[str]:
        for file in files:
            taken.append(file)
            yield file.path

    for _, result in captioner.attempt_many(paths(), job.options, job.batch_size, job.workers):
        yield outcome(taken.popleft(), result, job)
