from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from captioner.batch.job import ImageFile, Outcome
from captioner.batch.listing import Listing
from captioner.errors import CaptionerError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(root: Path, *paths: Path, recursive: bool = False, limit: int | None = None) -> list[str]:
    files = list(Listing(paths or [root], recursive, limit))
    assert Listing(paths or [root], recursive, limit).count() == len(files)
    assert all(isinstance(file, ImageFile) for file in files)
    return [os.path.relpath(file.path, root) for file in files if isinstance(file, ImageFile)]


def test_natural_order_without_hidden_files_and_other_kinds(tmp_path: Path) -> None:
    put(tmp_path, "photo10.jpg", "photo2.PNG", ".hidden.jpg", "notes.txt", "Photo1.webp", "photo02.jpg", "photo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    expected = ["photo.jpg", "Photo1.webp", "photo02.jpg", "photo2.PNG", "photo10.jpg"]
    assert found(tmp_path) == expected
    assert found(tmp_path, limit=2) == expected[:2]


def test_every_format_that_is_read_is_found_by_its_names(tmp_path: Path) -> None:
    names = [
        "a.jpg",
        "b.jpeg",
        "c.jfif",
        "d.mpo",
        "e.png",
        "f.webp",
        "g.gif",
        "h.bmp",
        "i.tif",
        "j.tiff",
        "k.avif",
        "l.ppm",
        "m.pgm",
        "N.JPEG",
    ]
    put(tmp_path, *names, "z.pdf", "z.mov", "z.json")
    assert found(tmp_path) == names


def test_photos_of_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.HEIC", "c.dng", ".d.heic", "deeper/e.heic")
    (tmp_path / "folder.raf").mkdir()
    listing = Listing([tmp_path])
    assert [Path(file.path).name for file in listing if isinstance(file, ImageFile)] == ["a.jpg"]
    assert listing.unread == 2
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(CaptionerError, match="; 2 HEIC, JPEG XL or raw, to be saved as JPEG"):
        listing.check()


def test_natural_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    numbers = random.Random(0).sample(range(10**6), 200)
    put(tmp_path, *(f"a{number}.jpg" for number in numbers))
    assert found(tmp_path) == [f"a{number}.jpg" for number in sorted(numbers)]


def test_folders_in_folders_are_gone_through_only_if_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "z.jpg", "d10/a.jpg", "d2/b.jpg", "d2/e/c.jpg", ".git/x.jpg", "out.attention/a.png", "empty/no.txt")
    assert found(tmp_path) == ["z.jpg"]
    assert found(tmp_path, recursive=True) == ["z.jpg", "d2/b.jpg", "d2/e/c.jpg", "d10/a.jpg"]


def test_links_in_folders_are_counted_not_followed_and_named_ones_are_taken(tmp_path: Path) -> None:
    put(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in/link.jpg").symlink_to("../out/b.jpg")
    (tmp_path / "in/loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "in/folder").symlink_to("..")
    listing = Listing([tmp_path / "in"], recursive=True)
    assert [Path(file.path).name for file in listing if isinstance(file, ImageFile)] == ["a.jpg"]
    assert listing.links == 3
    assert found(tmp_path, tmp_path / "in/link.jpg") == ["in/link.jpg"]
    assert found(tmp_path, tmp_path / "in/folder/out") == ["in/folder/out/b.jpg"]


def test_a_photo_below_several_paths_comes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.jpg", "d/b.jpg", "d/e/c.jpg")
    (tmp_path / "link").symlink_to("d")
    paths = [tmp_path / "d/b.jpg", tmp_path, tmp_path / "d", tmp_path / "link", tmp_path / "d/../a.jpg"]
    assert found(tmp_path, *paths, recursive=True) == ["d/b.jpg", "a.jpg", "d/e/c.jpg"]
    monkeypatch.chdir(tmp_path)
    files = Listing([Path(), Path("a.jpg"), Path("d"), Path("./d/b.jpg")])
    assert [file.path for file in files if isinstance(file, ImageFile)] == ["a.jpg", "d/b.jpg"]


def test_a_file_is_told_as_it_is_and_an_absent_one_by_zeros(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 1234567890123456789))
    long = tmp_path / ("x" * 300)
    there, absent, impossible = Listing([tmp_path / "a.jpg", tmp_path / "b.jpg", long])
    assert there == ImageFile(str(tmp_path / "a.jpg"), 1, 1234567890123456789)
    assert absent == ImageFile(str(tmp_path / "b.jpg"), 0, 0)
    assert impossible == ImageFile(str(long), 0, 0)


def test_a_folder_that_cannot_be_listed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = Listing([tmp_path], recursive=True)
    listing.check()
    failure, photo = listing
    assert isinstance(failure, Outcome)
    assert failure.error == f"{tmp_path / 'a'}: the folder cannot be listed (Permission denied)"
    assert isinstance(photo, ImageFile)
    assert photo.path.endswith("b/2.jpg")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "empty/deep/a.jpg", "full/a.jpg")
    with pytest.raises(CaptionerError, match=r"empty: no image in this folder .*--recursive"):
        Listing([tmp_path / "full", tmp_path / "empty"]).check()
    Listing([tmp_path / "empty"], recursive=True).check()
    (tmp_path / "empty/link.jpg").symlink_to("deep/a.jpg")
    with pytest.raises(CaptionerError, match="1 symbolic links not followed"):
        Listing([tmp_path / "empty"]).check()
