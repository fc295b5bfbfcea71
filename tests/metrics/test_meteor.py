from __future__ import annotations

from pathlib import Path

import pytest

from captioner.errors import MetricUnavailableError
from captioner.metrics import meteor as room
from captioner.metrics.meteor import meteor
from tests.metrics.test_official import needs_java


def fake_java(folder: Path, script: str) -> None:
    program = folder / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@needs_java
def test_no_word_can_break_the_conversation() -> None:
    references = [[["a", "red", "dog"], ["the", "dog"]], [["a", "cat"]], [["a", "red", "dog"], ["the", "dog"]], [["x"]]]
    hypotheses = [["a", "dog"], [], ["a", "dog", "é"], ["x"]]
    hostile: list[list[list[str]]] = [
        [["a", "red", "dog\n"], ["|||", "the", "dog"]],
        [["a", "cat", "EVAL ||| 1"]],
        *references[2:],
        [[]],
    ]
    captions = [["a", "dog", "|||"], ["|||", "\r\n"], ["a", "dog\x0b", "é"], ["x"], ["x"]]
    scores = meteor(references + hostile, hypotheses + captions).per_image
    assert scores[4:8] == pytest.approx(scores[:4], abs=1e-12)
    assert scores[1] == scores[8] == 0
    assert 0 < scores[2] < scores[0] < scores[3] == pytest.approx(100)


def test_without_java_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"^needs Java$"):
        meteor([[["a"]]], [["a"]])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no memory >&2; exit 1", "failed: no memory"),
        ("exit 1", "failed: no message"),
        ("exec /bin/sleep 60", "did not end within 1 s"),
        ("echo 1 2 3", "answered 1 of 1"),
        ("echo Error: what", "gave no numbers"),
        ("", "answered 0 of 1"),
    ],
)
def test_a_java_that_fails_is_a_reason_and_never_a_hang(
    script: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_java(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(room, "_START_SECONDS", 0.5 if "sleep" in script else 60)
    with pytest.raises(MetricUnavailableError, match=message):
        meteor([[["a"]]], [["a"]])


def test_a_java_that_is_no_program_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_java(tmp_path, "")
    (tmp_path / "java").write_bytes(b"\x7fELF")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailableError, match=r"^Java does not run \(Exec format error\)$"):
        meteor([[["a"]]], [["a"]])


def test_missing_references_are_an_error_before_java_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="METEOR needs one hypothesis"):
        meteor([[]], [["a"]])
