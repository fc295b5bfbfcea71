"""What an evaluation found, as a file that can be read back and compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.config import DecodingOptions
from captioner.errors import CaptionerError, DatasetError
from captioner.evaluation.scores import COMBINE
from captioner.files import replacing
from captioner.metrics.score import CorpusScore, interval
from captioner.plain_json import parse_json
from captioner.vocabulary import tokenize

_VERSION = 1


@dataclass(frozen=True)
class PhotoResult:
    """A photo and what was said about it.

    Attributes
    ----------
    name : str
        File name.
    caption : str
        Of the system.
    log_prob : float
        Natural log-probability that the system gives it.
    references : tuple of str
        As they stand in the data set.
    """

    name: str
    caption: str
    log_prob: float
    references: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """One system, scored on one split by one protocol.

    Attributes
    ----------
    system : str
        Short name, such as `flickr8k-soft, beam 3`.
    settings : dict
        All that the result depends on: checkpoint, its hash, data, split, protocol, decoding.
    photos : tuple of PhotoResult
    scores : dict of str to CorpusScore
        By name, in the order to be shown; statistics in the order of `photos`.
    not_computed : dict of str to str
        Name of a score that could not be computed, and why.
    style : dict of str to float
        What the captions are like.
    """

    system: str
    settings: dict[str, Any]
    photos: tuple[PhotoResult, ...]
    scores: dict[str, CorpusScore]
    not_computed: dict[str, str]
    style: dict[str, float]

    @property
    def words(self) -> list[list[str]]:
        """Words of the captions."""
        return [tokenize(photo.caption) for photo in self.photos]

    @property
    def decoding(self) -> DecodingOptions:
        """How captions were searched for."""
        # A result that is older than a setting was found with what is now its default.
        known = DecodingOptions().to_dict()
        return DecodingOptions.from_dict({name: self.settings.get(name, value) for name, value in known.items()})

    @property
    def data(self) -> list[tuple[str, tuple[str, ...]]]:
        """Name and references of every photo: what two evaluations must share to be compared."""
        return [(photo.name, photo.references) for photo in self.photos]

    def require_data(self, data: Sequence[tuple[str, tuple[str, ...]]]) -> None:
        """Refuse to be compared on other photos or references than these.

        Raises
        ------
        CaptionerError
            Naming the evaluation and the first difference.
        """
        if self.data == list(data):
            return
        apart = f"{len(self.data)} photos against {len(data)}"
        if len(self.data) == len(data):
            name = next(mine[0] for mine, other in zip(self.data, data, strict=True) if mine != other)
            apart = f"{name} is not among the others, or has other references there"
        raise CaptionerError(
            f"{self.system} was evaluated on different data ({apart}); name the same --data and --split"
        )

    def save(self, path: Path) -> None:
        """Write it as JSON, in a folder that exists.

        Raises
        ------
        CaptionerError
            If the file cannot be written; what was there before stays.
        """
        each = {name: score.per_image for name, score in self.scores.items()}
        content = {
            "version": _VERSION,
            "system": self.system,
            "settings": self.settings,
            "scores": {
                name: {"value": _number(score.value), "interval": [_number(end) for end in interval(score)]}
                for name, score in self.scores.items()
            },
            "not_computed": self.not_computed,
            "style": self.style,
            "photos": [
                {
                    **dataclasses.asdict(photo),
                    "scores": {name: _number(values[row]) for name, values in each.items()},
                    "statistics": {name: score.statistics[row].tolist() for name, score in self.scores.items()},
                }
                for row, photo in enumerate(self.photos)
            ],
        }
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        with replacing(path) as file:
            # As JSON has it: names of files that are no UTF-8.
            file.write(text.encode("utf-8", "backslashreplace"))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote.

        Raises
        ------
        DatasetError
            If the file is absent or is not such a file.
        """
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            if content["version"] != _VERSION:
                raise DatasetError(f"{path}: version {content['version']}, not {_VERSION}; evaluate again")
            photos = content["photos"]
            if not all(isinstance(photo["references"], list) for photo in photos):
                raise ValueError("expected references")
            if not photos:
                raise DatasetError(f"{path}: holds no photo; evaluate again")
            evaluation = cls(
                system=content["system"],
                settings=content["settings"],
                photos=tuple(
                    PhotoResult(p["name"], p["caption"], p["log_prob"], tuple(p["references"])) for p in photos
                ),
                scores={
                    name: CorpusScore(name, np.array([p["statistics"][name] for p in photos], float), COMBINE[name])
                    for name in content["scores"]
                },
                not_computed=content["not_computed"],
                style=content["style"],
            )
            _check(evaluation)
            return evaluation
        except OSError as error:
            raise DatasetError(f"{path}: {error.strerror}; name a file that evaluate.py wrote") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path}: not a result that evaluate.py wrote ({error!r:.200}); evaluate again"
            ) from error


def _check(evaluation: Evaluation) -> None:
    """Raise a ValueError or what else comes of it if a part is not of its kind."""
    photos = evaluation.photos
    texts = [evaluation.system, *evaluation.not_computed.values()]
    texts += [text for photo in photos for text in (photo.name, photo.caption, *photo.references)]
    # What is done with a result needs these settings.
    texts += [evaluation.settings[name] for name in ("protocol", "data", "split", "checkpoint_sha256", "words")]
    numbers = [*evaluation.style.values(), *(photo.log_prob for photo in photos)]
    if not all(isinstance(text, str) for text in texts) or not all(photo.references for photo in photos):
        raise ValueError("expected text")
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise ValueError("expected numbers")
    for score in evaluation.scores.values():
        if score.statistics.ndim != 2 or not np.isfinite(score.statistics).all() or np.ndim(score.value):
            raise ValueError(f"expected statistics of {score.name}")
    try:
        evaluation.decoding  # noqa: B018
    except CaptionerError as error:
        raise ValueError(str(error)) from error


def _number(value: float) -> float | None:
    """JSON knows no NaN, which is what a score is that has nothing to go by."""
    return float(value) if np.isfinite(value) else None
