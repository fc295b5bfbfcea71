from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from captioner.batch import ray_engine
from captioner.batch.job import ImageFile, Job, Outcome
from captioner.batch.ray_engine import run_ray
from captioner.checkpoint import save_checkpoint
from captioner.checkpoint_files import model_id
from captioner.cli import main
from captioner.config import DecodingOptions
from captioner.errors import CaptionerError
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.conftest import noise_photo

# 500 in the long form, which docs/batch.md names.
PHOTOS = int(os.environ.get("CAPTIONER_RAY_PHOTOS", "40"))


def test_without_ray_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CaptionerError, match=r'pip install -e "\.\[ray\]"'):
        next(run_ray([], Job(Path("model"), "model", DecodingOptions())))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine, for all tests: it takes its seconds to start."""
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install -e ".[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        # Workers find the package under test by it.
        patch.setenv("PYTHONPATH", str(Path(ray_engine.__file__).parents[2]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray_engine._connect(ray)
        yield
        ray.shutdown()


@pytest.fixture
def job(tiny_model: ShowAttendTell, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(ray_engine, "FILES_PER_TASK", max(2, PHOTOS // 16))
    save_checkpoint(tmp_path / "model", tiny_model, vocabulary)
    options = DecodingOptions(beam_size=2, max_length=6)
    return Job(tmp_path / "model", model_id(tmp_path / "model"), options, precision="float32")


@pytest.fixture
def files(tmp_path: Path) -> list[ImageFile]:
    for index in range(PHOTOS):
        noise_photo(index).save(tmp_path / f"{index}.jpg")
    return [ImageFile(str(tmp_path / f"{index}.jpg"), 1, index) for index in range(PHOTOS)]


def by_file(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.file.mtime_ns)


@pytest.mark.usefixtures("cluster")
def test_every_photo_comes_once_with_its_caption_and_a_broken_one_as_an_error(
    job: Job, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "FIRST_SET", 6)
    broken = Path(files[3].path)
    broken.write_bytes(broken.read_bytes()[:200])
    outcomes = by_file(list(run_ray(iter(files), job)))
    assert [outcome.file for outcome in outcomes] == files
    assert outcomes[3].record is None
    assert str(broken) in (outcomes[3].error or "")
    good = files[:3] + files[4:]
    captions = Captioner.load(job.checkpoint, precision="float32").caption_many(
        [file.path for file in good], job.options
    )
    records = [outcome.record for outcome in outcomes if outcome.record is not None]
    assert [(record["image"], record["caption"]) for record in records] == [
        (file.path, caption.text) for file, caption in zip(good, captions, strict=True)
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills the actor's process")
@pytest.mark.usefixtures("cluster")
def test_an_actor_killed_in_the_middle_loses_nothing_and_nothing_comes_twice(
    job: Job, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Slow(ray_engine.Worker):
        """Slow enough to be killed in the middle; leaves its process id."""

        def _caption(self, files: list[ImageFile]) -> list[Outcome] | CaptionerError:
            time.sleep(0.2)
            (tmp_path / f"{os.getpid()}.pid").touch()
            return super()._caption(files)

    monkeypatch.setattr(ray_engine, "Worker", Slow)
    killed = 0
    outcomes: list[Outcome] = []
    for outcome in run_ray(iter(files), job):
        if not killed:
            killed = int(next(tmp_path.glob("*.pid")).stem)
            os.kill(killed, signal.SIGKILL)
        outcomes.append(outcome)
    assert [outcome.file for outcome in by_file(outcomes)] == files
    assert all(outcome.record for outcome in outcomes)
    workers = {int(path.stem) for path in tmp_path.glob("*.pid")}
    assert len(workers) > 1, "a successor went on"


@pytest.mark.skipif(PHOTOS < 100, reason="takes Ray half a minute: set CAPTIONER_RAY_PHOTOS=500")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills its own process")
@pytest.mark.usefixtures("cluster")
def test_what_kills_every_actor_is_given_up_and_the_rest_captioned(
    job: Job, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = files[5].path

    class Mortal(ray_engine.Worker):
        def _caption(self, files: list[ImageFile]) -> list[Outcome] | CaptionerError:
            if any(file.path == deadly for file in files):
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._caption(files)

    monkeypatch.setattr(ray_engine, "Worker", Mortal)
    monkeypatch.setattr(ray_engine, "ATTEMPTS", 1)
    outcomes = by_file(list(run_ray(iter(files), job)))
    assert [outcome.file for outcome in outcomes] == files
    given_up = {outcome.file.path for outcome in outcomes if outcome.error}
    size = ray_engine.FILES_PER_TASK
    assert given_up == {file.path for file in files[5 // size * size :][:size]}


@pytest.mark.usefixtures("cluster")
def test_paths_are_meant_from_where_the_run_was_started(
    job: Job, files: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(files[0].path).parent)
    relative = [replace(file, path=Path(file.path).name) for file in files[:2]]
    missing = ImageFile("nowhere.jpg", 0, 2)
    outcomes = by_file(list(run_ray([*relative, missing], job)))
    assert [outcome.file for outcome in outcomes] == [*relative, missing]
    assert [outcome.record is None for outcome in outcomes] == [False, False, True]
    assert (outcomes[2].error or "").startswith("nowhere.jpg: ")


@pytest.mark.usefixtures("cluster")
def test_the_command_writes_what_it_does_without_ray_and_goes_on(
    job: Job, files: list[ImageFile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def caption(engine: str) -> dict[str, str]:
        output = tmp_path / f"{engine}.jsonl"
        options = ["--checkpoint", str(job.checkpoint), "--precision", "float32", "--engine", engine]
        assert main(["caption", str(tmp_path), *options, "--output", str(output)]) == 0
        return {row["image"]: row["caption"] for row in map(json.loads, output.open())}

    expected = caption("local")
    assert set(expected) == {file.path for file in files}
    assert caption("ray") == expected
    capsys.readouterr()
    assert caption("ray") == expected
    assert capsys.readouterr().err.startswith(f"0 captioned, {len(files)} skipped, 0 failed")


@pytest.mark.usefixtures("cluster")
def test_a_checkpoint_that_is_not_there_is_told_as_it_is(job: Job, files: list[ImageFile]) -> None:
    with pytest.raises(CaptionerError, match="nowhere: no checkpoint there"):
        list(run_ray(files, replace(job, checkpoint=Path("nowhere"))))
