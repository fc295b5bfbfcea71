"""Looking a data set over before training on it: `python -m captioner data check RECIPE`."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from captioner.checkpoint_files import VOCABULARY, existing
from captioner.data.annotations import CaptionedImage, data_root, list_split
from captioner.errors import ImageReadError, MissingSplitError
from captioner.images import load_image
from captioner.paths import is_file, is_folder
from captioner.prefetch import map_ahead
from captioner.progress import Bar
from captioner.recipe import DataConfig
from captioner.vocabulary import Vocabulary, tokenize

_SPLITS = ("train", "dev", "test")
_SHOWN = 5
_BINS, _BAR = 12, 20


@dataclass(frozen=True)
class SplitReport:
    """What was found of one split.

    Captions are those of the photos that are on disk, for only they are trained on.

    Attributes
    ----------
    photos : int
        How many are listed.
    captions_per_photo : Counter of int
        How many of the photos have so many captions.
    lengths : Counter of int
        How many of the captions have so many words.
    covered : float
        Share of the words of all captions that are in the vocabulary.
    absent : list of str
        Photos that are listed but not on disk, as paths under the data set's folder.
    unreadable : list of str
        What is wrong with each photo that cannot be read.
    """

    photos: int
    captions_per_photo: Counter[int]
    lengths: Counter[int]
    covered: float
    absent: list[str]
    unreadable: list[str]


@dataclass(frozen=True)
class DataReport:
    """What was found of a data set; as text, what the command line prints.

    Attributes
    ----------
    config : DataConfig
        What was looked at.
    splits : dict of SplitReport
        The splits there are.
    lacking : dict of str
        Why the others are not.
    shared : list of dict
        Of every photo in several splits, by path or with the same bytes, its path in each.
    vocabulary_size : int
        Special words included.
    origin : str
        Which words it has.
    """

    config: DataConfig
    splits: dict[str, SplitReport]
    lacking: dict[str, str]
    shared: list[dict[str, str]]
    vocabulary_size: int
    origin: str

    @property
    def problems(self) -> list[str]:
        """All that is wrong, a line each; none if the data set is fine."""
        found = []
        for name, split in self.splits.items():
            if not split.captions_per_photo:
                found.append(f"{name}: holds no photo")
            if split.absent:
                found.append(f"{name}: {_list(split.absent, 'absent')}")
            if split.unreadable:
                found.append(f"{name}: {_list(split.unreadable, 'unreadable')}")
            if split.lengths[0]:
                found.append(f"{name}: captions without a word: {split.lengths[0]:,}")
        if self.splits["dev"].photos == 1:
            found.append("dev: holds one photo alone, which cannot be scored")
        if self.splits["train"].captions_per_photo and self.vocabulary_size == len(Vocabulary([])):
            found.append(f"train: no word has a count of {self.config.min_count}; lower data.min_count")
        common: dict[str, list[str]] = defaultdict(list)
        for places in self.shared:
            common[" and ".join(places)].append(" = ".join(dict.fromkeys(places.values())))
        return found + [f"{names}: {_list(photos, 'in common')}" for names, photos in common.items()]

    def __str__(self) -> str:
        config, splits = self.config, self.splits.values()
        lengths = [split.lengths for split in splits]
        rows = [
            ("", list(self.splits)),
            ("photos", [f"{split.photos:,}" for split in splits]),
            ("  absent", [f"{len(split.absent):,}" for split in splits]),
            ("  unreadable", [f"{len(split.unreadable):,}" for split in splits]),
            ("captions", [f"{split.lengths.total():,}" for split in splits]),
            ("  per photo (min/mean/max)", [_spread(split.captions_per_photo) for split in splits]),
            ("  words (min/mean/max)", [_spread(split.lengths) for split in splits]),
            (f"  over {config.max_length} words", [_share_over(split.lengths, config.max_length) for split in splits]),
            ("words in vocabulary", [f"{split.covered:.2%}" for split in splits]),
        ]
        words = self.vocabulary_size - len(Vocabulary([]))
        lines = [
            f"{config.root} ({config.format})",
            "",
            *(f"{label:<27}" + "".join(f"{value:>18}" for value in values) for label, values in rows),
            "",
            f"vocabulary: {words:,} words {self.origin}, and {self.vocabulary_size - words} special ones",
            *self.lacking.values(),
            "",
            "caption lengths in words",
            *_histogram(list(self.splits), lengths),
            "",
        ]
        return "\n".join(lines + ([f"wrong  {problem}" for problem in self.problems] or ["nothing wrong"]))


def check_data(config: DataConfig, start: Path | None = None) -> DataReport:
    """Read every split, decode every photo, count every word; shows progress bars.

    Parameters
    ----------
    config : DataConfig
    start : Path, optional
        Checkpoint whose words training keeps; one that is yet to be trained says nothing of them.

    Raises
    ------
    DatasetError
        If a file is absent or malformed, or there is no `train` or `dev` split.
    CheckpointError
        If the checkpoint's words cannot be read.
    """
    root = data_root(config)
    known = Vocabulary.load(existing(start) / VOCABULARY) if start is not None and is_folder(start) else None
    origin = f"with a count of at least {config.min_count} in train"
    if start is not None:
        origin = f"of {start}" if known else f"{origin} ({start}, which training starts from, is not there yet)"
    listed: dict[str, list[CaptionedImage]] = {}
    lacking: dict[str, str] = {}
    for split in _SPLITS:
        try:
            listed[split] = list_split(config, split)
        except MissingSplitError as error:
            if split != "test":
                raise
            lacking[split] = str(error)
    photos = _look_at(image.path for images in listed.values() for image in images)
    present = {split: [i for i in images if photos[i.path] is not None] for split, images in listed.items()}
    counted = {split: _count_words(images, split) for split, images in present.items()}
    vocabulary = known or Vocabulary.from_counts(counted["train"][1], config.min_count)
    reports = {}
    for split, images in listed.items():
        lengths, words = counted[split]
        seen = {path: photos[path] for path in (image.path for image in images)}
        reports[split] = SplitReport(
            photos=len(images),
            captions_per_photo=Counter(len(image.captions) for image in present[split]),
            lengths=lengths,
            covered=sum(words[word] for word in vocabulary.words) / max(words.total(), 1),
            absent=[_relative(path, root) for path, photo in seen.items() if photo is None],
            unreadable=[photo for photo in seen.values() if isinstance(photo, str)],
        )
    return DataReport(config, reports, lacking, _shared(listed, photos, root), len(vocabulary), origin)


def _count_words(images: list[CaptionedImage], split: str) -> tuple[Counter[int], Counter[str]]:
    lengths: Counter[int] = Counter()
    words: Counter[str] = Counter()
    for image in Bar(images, desc=f"words of {split}", unit="photo", disable=None):
        for caption in image.captions:
            found = tokenize(caption)
            lengths[len(found)] += 1
            words.update(found)
    return lengths, words


def _look_at(paths: Iterable[Path]) -> dict[Path, bytes | str | None]:
    """Decode every photo; for each a hash of its bytes, or what is wrong with it, or None if it is absent."""
    distinct = list(dict.fromkeys(paths))
    workers = os.cpu_count() or 1
    results = map_ahead(_look, distinct, workers=workers, ahead=4 * workers)
    bar = Bar(results, total=len(distinct), desc="photos", unit="photo", disable=None)
    return dict(zip(distinct, bar, strict=True))


def _look(path: Path) -> bytes | str | None:
    if not is_file(path):
        return None
    try:
        load_image(path)
    except ImageReadError as error:
        return str(error)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _shared(
    listed: dict[str, list[CaptionedImage]], photos: dict[Path, bytes | str | None], root: Path
) -> list[dict[str, str]]:
    places: dict[bytes | Path, dict[str, str]] = defaultdict(dict)
    for split, images in listed.items():
        for image in images:
            photo = photos[image.path]
            key = photo if isinstance(photo, bytes) else image.path
            places[key].setdefault(split, _relative(image.path, root))
    return [where for where in places.values() if len(where) > 1]


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _histogram(names: list[str], lengths: list[Counter[int]]) -> list[str]:
    """One row for each range of lengths, one bar for each split, all on one scale."""
    longest = max((max(counts, default=0) for counts in lengths), default=0)
    width = longest // _BINS + 1
    rows = [
        [sum(counts[n] for n in range(start, start + width)) / max(counts.total(), 1) for counts in lengths]
        for start in range(0, longest + 1, width)
    ]
    scale = _BAR / (max(max(row) for row in rows) or 1)
    lines = [f"{'':<9}" + "".join(f"{name:<{_BAR + 9}}" for name in names).rstrip()]
    for number, row in enumerate(rows):
        start = number * width
        label = f"{start}-{start + width - 1}" if width > 1 else str(start)
        bars = "".join(f"{share:>6.1%} {'#' * round(share * scale):<{_BAR + 2}}" for share in row)
        lines.append(f"{label:>7}  {bars}".rstrip())
    return lines


def _share_over(lengths: Counter[int], most: int) -> str:
    over = sum(count for length, count in lengths.items() if length > most)
    return f"{over:,} ({over / max(lengths.total(), 1):.2%})"


def _spread(counts: Counter[int]) -> str:
    if not counts:
        return "-"
    mean = sum(value * count for value, count in counts.items()) / counts.total()
    return f"{min(counts)} / {mean:.2f} / {max(counts)}"


def _list(items: list[str], what: str) -> str:
    shown = [f"\n       {item}" for item in items[:_SHOWN]]
    more = [f"\n       and {len(items) - _SHOWN:,} more"] if len(items) > _SHOWN else []
    return f"{len(items):,} photo{'s' if len(items) != 1 else ''} {what}" + "".join(shown + more)
