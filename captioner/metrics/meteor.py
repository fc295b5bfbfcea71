"""METEOR 1.5 (Denkowski and Lavie 2014), by the authors' Java program as coco-caption calls it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocoevalcap.meteor.meteor as coco

from captioner.errors import MetricUnavailableError
from captioner.metrics.score import CorpusScore, Floats, Hypotheses, References, check_captions

_FOLDER = Path(coco.__file__).parent
# stdin and stdout are in the encoding of the platform unless Java is told.
_COMMAND = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", coco.METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
# The program is ready after some 10 s, and aligns hundreds of captions a second.
_START_SECONDS, _CAPTION_SECONDS = 300, 0.5
# Table 1 of the paper, English; weights of exact, stem, synonym and paraphrase matches.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_STATISTICS = 23


def meteor(references: References, hypotheses: Hypotheses) -> CorpusScore:
    """METEOR 1.5, percent, of a corpus: not the mean over images, but its formula applied to their totals.

    The Java program aligns every caption with its best reference and counts matches and chunks; from these the score
    is computed here, of the corpus and of every image the same as the program's own. Takes 10 s to start and 2 GB.

    Parameters
    ----------
    references : sequence of sequence of word lists
        All references of every image.
    hypotheses : sequence of word lists
        One per image.

    Raises
    ------
    ValueError
        If there are no images, or an image has no reference.
    MetricUnavailableError
        If there is no Java, or the program fails or does not end.
    """
    check_captions("METEOR", references, hypotheses)
    lines = [
        " ||| ".join(["SCORE", *map(_text, image_references), _text(hypothesis)])
        for hypothesis, image_references in zip(hypotheses, references, strict=True)
    ]
    answers = _run("\n".join(lines) + "\n", _START_SECONDS + _CAPTION_SECONDS * len(lines)).splitlines()
    try:
        statistics = np.array([answer.split() for answer in answers], np.float64)
    except ValueError as error:
        raise MetricUnavailableError("its Java program gave no numbers") from error
    if statistics.shape != (len(lines), _STATISTICS):
        raise MetricUnavailableError(f"its Java program answered {len(answers)} of {len(lines)} captions")
    # A caption that matches its reference from end to end is not broken up: the program adds no chunk for it.
    words, matches, chunks = statistics[:, :2], _matches(statistics).sum(-2), statistics[:, 20]
    chunks[(words == matches[:, :2] + matches[:, 2:]).all(1) & (chunks == 1)] = 0
    return CorpusScore("METEOR", statistics, combine_meteor)


def _text(words: Sequence[str]) -> str:
    """Put words on one line, without the mark that parts captions."""
    return " ".join(" ".join(words).replace("|||", " ").split())


def _run(text: str, seconds: float) -> str:
    """Return what the program answers to lines of text."""
    if shutil.which("java") is None:
        raise MetricUnavailableError("needs Java")
    try:
        # Ends the program whatever happens, and reads and writes at once, so that neither waits for the other.
        run = subprocess.run(
            _COMMAND, cwd=_FOLDER, input=text, capture_output=True, encoding="utf-8", timeout=seconds, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(f"its Java program did not end within {seconds:.0f} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or "no message").splitlines()[0]
        raise MetricUnavailableError(f"its Java program failed: {said}") from error
    except OSError as error:
        raise MetricUnavailableError(f"Java does not run ({error.strerror or error})") from error
    return run.stdout


def _matches(totals: Floats) -> Floats:
    """Count matches (..., 4 kinds, 4): content words of hypothesis and reference, then function words of both."""
    return totals[..., 4:20].reshape(*totals.shape[:-1], 4, 4)


def combine_meteor(totals: Floats) -> Floats:
    """Section 3 of the paper: weighted harmonic mean of precision and recall, less the fragmentation penalty."""
    length, function = totals[..., :2], totals[..., 2:4]  # of hypothesis and reference
    weighted = np.einsum("...kf,k->...f", _matches(totals), _WEIGHTS)
    matched = _DELTA * weighted[..., :2] + (1 - _DELTA) * weighted[..., 2:]
    possible = _DELTA * (length - function) + (1 - _DELTA) * function
    share = np.divide(matched, possible, out=np.zeros_like(matched), where=possible > 0)
    precision, recall = share[..., 0], share[..., 1]
    # alpha P + (1 - alpha) R is 0 only where there is no match, and then the score is too.
    below = _ALPHA * precision + (1 - _ALPHA) * recall
    mean = np.divide(precision * recall, below, out=np.zeros_like(below), where=below > 0)
    chunks, words = totals[..., 20], totals[..., 21:23].mean(-1)
    fragmentation = np.divide(chunks, words, out=np.zeros_like(words), where=words > 0)
    scores: Floats = 100 * mean * (1 - _GAMMA * fragmentation**_BETA)
    return scores
