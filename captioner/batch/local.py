"""The engine that captions in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.records import outcome
from captioner.pipeline import Captioner


def run_local(files: Iterable[ImageFile], job: Job) -> Iterator[Outcome]:
    """Caption files in order; the model is loaded before the first one is taken.

    Raises
    ------
    CaptionerError
        If the job cannot be done: no such model or device, options that the model cannot follow.
    """
    captioner = Captioner.load(job.checkpoint, job.device, job.precision)
    job = replace(job, precision=captioner.precision)
    taken: deque[ImageFile] = deque()

    def paths() -> Iterator[str]:
        for file in files:
            taken.append(file)
            yield file.path

    for _, result in captioner.attempt_many(paths(), job.options, job.batch_size, job.workers):
        yield outcome(taken.popleft(), result, job)
