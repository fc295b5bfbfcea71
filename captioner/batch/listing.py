"""Finding photos: the files given, and those in the folders given, in natural order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.batch.hashes import HashSet, hash64
from captioner.batch.job import ImageFile, Outcome
from captioner.errors import CaptionerError
from captioner.images import SUFFIXES, UNREAD_SUFFIXES
from captioner.paths import is_folder

# What `--attention png` draws is not to be captioned when its folder lies among the photos.
ATTENTION_SUFFIX = ".attention"


@dataclass
class Listing:
    """The photos below some paths, looked for anew each time it is gone through; memory holds one folder's names.

    Of a folder, files with an image's suffix are taken. Hidden files and folders are not, nor is what symbolic links
    in it point to. Files named themselves are taken as they are. A photo below several of the paths comes once.

    Attributes
    ----------
    paths : sequence of Path
        Files and folders.
    recursive : bool
        Whether folders in folders are gone through, too.
    limit : int, optional
        Most photos to give.
    links : int
        Symbolic links passed over so far.
    unread : int
        Photos passed over so far because their format is not read, by their suffixes; like links, one that is below
        several of the paths counts for each.
    """

    paths: Sequence[Path]
    recursive: bool = False
    limit: int | None = None
    links: int = 0
    unread: int = 0

    def check(self) -> None:
        """Refuse folders without any image.

        Raises
        ------
        CaptionerError
            Naming the folder.
        """
        for path in self.paths:
            self.links = self.unread = 0
            if is_folder(path) and next(self._walk(path), None) is None:
                linked = f"; {self.links} symbolic links not followed, name what they point to" if self.links else ""
                unread = f"; {self.unread} HEIC, JPEG XL or raw, to be saved as JPEG" if self.unread else ""
                deeper = "" if self.recursive else "; --recursive looks into the folders in it"
                raise CaptionerError(
                    f"{path}: no image in this folder (looked for {', '.join(SUFFIXES)}){unread}{linked}{deeper}"
                )

    def __iter__(self) -> Iterator[ImageFile | Outcome]:
        """Give the photos as they are now, and for each folder that cannot be listed the failure."""
        self.links = self.unread = 0
        return (found if isinstance(found, Outcome) else _stat(found) for found in self._found())

    def count(self) -> int:
        """How many photos there are."""
        return sum(isinstance(found, str) for found in self._found())

    def _found(self) -> Iterator[str | Outcome]:
        """Paths of photos, as given, without stat; and failures."""
        seen, photos = HashSet(), 0
        for path in self.paths:
            folder = is_folder(path)
            # By where it lies, not by what it may link to: two links to a photo are two names to caption.
            home = os.path.realpath(path if folder else path.parent)
            for found in self._walk(path) if folder else [str(path)]:
                if isinstance(found, str):
                    inside = found.removeprefix(_prefix(str(path))) if folder else path.name
                    if len(self.paths) > 1 and not seen.add(hash64(f"{home}/{inside}")):
                        continue
                    photos += 1
                yield found
                if photos == self.limit:
                    return

    def _walk(self, root: Path) -> Iterator[str | Outcome]:
        pending = [str(root)]
        while pending:
            folder = pending.pop()
            try:
                files, folders = self._entries(folder)
            except OSError as error:
                failed = f"{folder}: the folder cannot be listed ({error.strerror or error})"
                yield Outcome(ImageFile(folder, 0, 0), None, failed)
                continue
            # Not Path, which takes ten times the memory and time.
            yield from (_prefix(folder) + name for name in files)
            pending += [_prefix(folder) + name for name in reversed(folders)]

    def _entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of a folder's images and, if they are to be gone through, of its folders, in natural order."""
        files, folders = [], []
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._is_image(entry):
                    files.append(entry.name)
                elif self._is_subfolder(entry):
                    folders.append(entry.name)
        return _natural_order(files), _natural_order(folders)

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        name = entry.name.lower()
        if name[0] == ".":
            return False
        if not name.endswith(SUFFIXES):
            self.unread += name.endswith(UNREAD_SUFFIXES) and not is_folder(entry.path)
            return False
        # A link to nowhere is one, too: `entry.is_file()` may fail on it.
        self.links += entry.is_symlink()
        return entry.is_file(follow_symlinks=False)

    def _is_subfolder(self, entry: os.DirEntry[str]) -> bool:
        if not self.recursive or entry.name[0] == "." or entry.name.endswith(ATTENTION_SUFFIX):
            return False
        self.links += entry.is_symlink() and is_folder(entry.path)
        return entry.is_dir(follow_symlinks=False)


def _prefix(folder: str) -> str:
    """Give what stands before the names in a folder; photos in the working folder go by their names alone."""
    if folder == ".":
        return ""
    return folder if folder.endswith("/") else f"{folder}/"


def _natural_order(names: list[str]) -> list[str]:
    """Sort so that photo2 comes before photo10, and capitals do not matter."""
    names.sort()  # names that differ in capitals only would else come as the disk has them
    names.sort(key=natural)
    return names


def natural(name: str) -> str:
    """Sort key: the count of a number's digits is put before them, which takes less memory than a list of parts."""
    return re.sub(r"[0-9]+", lambda match: _counted(match[0].lstrip("0")), name.lower())


def _counted(digits: str) -> str:
    return f"0{chr(len(digits))}{digits}"


def _stat(path: str) -> ImageFile:
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return ImageFile(path, 0, 0)  # reading it will say why
    return ImageFile(path, found.st_size, found.st_mtime_ns)
