"""Small files that ask for much: read, or refused, within bounds of time and memory."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from captioner.errors import ImageReadError
from captioner.images import MAX_PIXELS, MAX_SCANS, load_image
from tests.stress.mutants import EXAMPLES, chunk, exif_block
from tests.stress.reader import MOST_MEGABYTES, MOST_SECONDS, read_apart


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *chunks,
            chunk(b"IDAT", zlib.compress(rows, 1)),
            chunk(b"IEND", b""),
        )
    )


def tiff(*entries: tuple[int, int, int, int], size: int = 1000) -> bytes:
    """Lay out a TIFF of one directory: (tag, type, count, value or place)."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory).ljust(size, b"\0")


def shape_entries(width: int, height: int) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


def scans(width: int, height: int, count: int) -> bytes:
    """Write a JPEG with a scan repeated, each of which goes through the whole picture."""
    data = bytearray(saved(Image.new("L", (16, 16), 128), "JPEG", progressive=True))
    struct.pack_into(">HH", data, data.index(b"\xff\xc2") + 5, height, width)
    first, last = data.index(b"\xff\xda"), data.rindex(b"\xff\xda")
    # All coefficients, 32,767 blocks at once being told to have none.
    runs = b"\xff\xc4\0\x14\x10\x01" + bytes(15) + b"\xe0" + b"\xff\xda\0\x08\x01\x01\x10\x01\x3f\0"
    assert first < last
    return bytes(data[:last]) + (runs + b"\x7f\xff" * (width * height // 64 // 32767)) * count + b"\xff\xd9"


def test_scans_are_counted_wherever_a_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = scans(16, 16, MAX_SCANS - 9), scans(16, 16, MAX_SCANS + 5)
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 3)
    load_image(few)
    with pytest.raises(ImageReadError, match="scans"):
        load_image(many)


def bombs(long: bool) -> Iterator[tuple[str, str, bytes]]:
    """Small files that ask for much: a name, how it has to end, and the bytes."""
    photo = Image.open(EXAMPLES / "cat.jpg").resize((64, 64))
    million = "million"
    for width, height in ((2**31 - 1, 2**31 - 1), (MAX_PIXELS + 1, 1), (1, MAX_PIXELS + 1)):
        yield f"claims {width} x {height}.png", million, png(width, height)
        yield f"claims {width} x {height}.ppm", million, b"P6 %d %d 255\n" % (width, height) + bytes(99)
        yield f"plain, claims {width} x {height}.ppm", million, b"P3 %d %d 255\n" % (width, height) + b"1 " * 99
        yield f"claims {width} x {height}.tiff", million, tiff(*shape_entries(width, height), (273, 4, 1, 8))
    yield "gif", million, b"GIF89a" + struct.pack("<HH", 65535, 65535) + saved(photo, "GIF")[10:]
    frame = saved(photo.convert("L"), "GIF")
    place = frame.index(b"\x2c", 13 + 768)
    yield "gif outside", million, frame[: place + 1] + struct.pack("<HH", 65000, 65000) + frame[place + 5 :]
    bmp = bytearray(saved(photo, "BMP"))
    struct.pack_into("<ii", bmp, 18, 2**31 - 1, 2**31 - 1)
    yield "bmp", million, bytes(bmp)
    for options in ({"lossless": True}, {"save_all": True, "append_images": [photo.rotate(90)]}):
        webp = bytearray(saved(photo.convert("RGBA"), "WEBP", **options))
        if webp[12:16] == b"VP8X":
            webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
            yield "animated webp", "", bytes(webp)
        else:
            struct.pack_into("<I", webp, 21, 0x0FFFFFFF)
            yield "webp", "", bytes(webp)
    avif = saved(photo, "AVIF")
    place = avif.index(b"ispe") + 8
    yield "avif", "", avif[:place] + struct.pack(">II", 60_000, 60_000) + avif[place + 8 :]
    jpeg = bytearray(saved(photo, "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 65500, 65500)
    yield "jpeg", million, bytes(jpeg)

    text = zlib.compress(bytes(200_000_000 if long else 20_000_000), 1)
    pixel = b"\0\1\2\3"
    yield "text.png", "too large", png(1, 1, chunk(b"zTXt", b"k\0\0" + text), rows=pixel)
    yield "international text.png", "too large", png(1, 1, chunk(b"iTXt", b"k\0\1\0\0\0" + text), rows=pixel)
    yield "profile.png", "", png(1, 1, chunk(b"iCCP", b"k\0\0" + text), rows=pixel)
    one = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))
    yield "a thousand texts.png", "", png(1, 1, *[one] * 1000, rows=pixel)
    yield "a hundred thousand chunks.png", "read", png(1, 1, *[chunk(b"teXt", b"k")] * 100_000, rows=pixel)
    yield "rows without end.png", "read", png(1, 1, rows=pixel * 5_000_000)
    many = [(tag, 1, 900_000, 8) for tag in range(65535 - 6) if tag not in range(256, 400)]
    yield "tags.tiff", "", tiff(*shape_entries(1, 1), (273, 4, 1, 8), *many[:65529], size=2_000_000)
    yield "strips.tiff", "", tiff(*shape_entries(1, 1), (273, 4, 2**30, 8), (279, 4, 2**30, 8), size=10_000)
    for tile in (2**16, 2**31 - 16):
        entries = (*shape_entries(64, 64), (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, 99))
        yield f"tile of {tile}.tiff", "", tiff(*entries)
        deflated = tiff(*(entry if entry[0] != 259 else (259, 3, 1, 8) for entry in entries))
        yield f"packed tile of {tile}.tiff", "", deflated
    loop = bytearray(tiff(*shape_entries(4, 4), (273, 4, 1, 8)))
    yield "itself next.tiff", "read", bytes(loop[:94]) + struct.pack("<I", 8) + bytes(loop[98:])
    lying = tuple(struct.pack("<HHII", tag, 1, 60_000, 8) for tag in range(1, 5000))
    yield "exif.jpg", "read", saved(photo, "JPEG", exif=exif_block(6, lying))
    yield "exif.png", "read", saved(photo, "PNG", exif=exif_block(6, lying * 10))
    frames = [Image.new("L", (8, 8), level % 256) for level in range(5000 if long else 1000)]
    yield "frames.gif", "read", saved(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)
    yield "frames.png", "read", saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    side = 7_000 if long else 2_000
    yield "few scans.jpg", "read", scans(side, side, MAX_SCANS - 9)
    yield "scans.jpg", "scans", scans(side, side, 50_000 if long else 5_000)
    if not long:
        return
    # As large as is allowed, from next to nothing.
    for depth, colour, size in ((8, 2, 3), (8, 6, 4), (16, 0, 2), (16, 6, 8), (8, 3, 1), (8, 4, 2)):
        chunks = [chunk(b"PLTE", bytes(768)), chunk(b"tRNS", bytes(256))] * (colour == 3)
        chunks.append(chunk(b"eXIf", exif_block(6)[6:]))  # lying on its side
        rows = bytes(10_000 * (1 + 9_990 * size))
        yield f"{depth} {colour}.png", "read", png(9_990, 10_000, *chunks, rows=rows, depth=depth, colour=colour)
    grey = Image.new("L", (9_990, 10_000))
    yield "large.gif", "read", saved(grey, "GIF")
    yield "large.tiff", "read", saved(grey.convert("F"), "TIFF", compression="tiff_lzw")
    packed = zlib.compress(bytes(4 * 99_000_000), 1)
    row = [(258, 3, 1, 32), (259, 3, 1, 8), (273, 4, 1, 1000), (278, 4, 1, 1), (279, 4, 1, len(packed)), (339, 3, 1, 3)]
    shape = [entry for entry in shape_entries(99_000_000, 1) if entry[0] not in (258, 259)]
    yield "large row.tiff", "", tiff(*shape, *row) + packed
    yield "large int.tiff", "read", saved(grey.convert("I"), "TIFF", compression="tiff_lzw")
    yield "large.jpg", "read", saved(grey.convert("CMYK"), "JPEG")
    yield "large progressive.jpg", "pixels", saved(grey, "JPEG", progressive=True)
    yield "progressive.jpg", "read", saved(grey.convert("CMYK").resize((7_000, 7_000)), "JPEG", progressive=True)
    yield "too large.webp", "pixels", saved(grey, "WEBP", quality=1, method=0)
    yield "large.webp", "read", saved(grey.resize((7_000, 7_000)), "WEBP", quality=1, method=0)
    yield "large.avif", "read", saved(grey.resize((9_990, 8_000)), "AVIF", speed=10)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_small_files_that_ask_for_much(
    tmp_path: Path, effort: Callable[[bool, bool], bool], tally: Callable[[str], None]
) -> None:
    ends: dict[str, dict[str, Any]] = {}
    wrong = []
    for index, (name, expected, data) in enumerate(bombs(effort(False, True))):
        path = tmp_path / f"{index} {name}"
        path.write_bytes(data)
        ends[str(path)] = {"expected": expected}
    found = list(read_apart(ends, tmp_path / "mutant"))
    for one in found:
        within = one["seconds"] < MOST_SECONDS and one["megabytes"] < MOST_MEGABYTES
        if ends[one["name"]]["expected"] not in one["end"] or one["end"].startswith("fault") or not within:
            wrong.append(one)
    assert wrong == [], json.dumps(wrong, indent=1)
    assert len(found) == len(ends)
    slowest, largest = (max(one[cost] for one in found) for cost in ("seconds", "megabytes"))
    read = sum(one["end"] == "read" for one in found)
    tally(
        f"images, bombs: {len(found)} files, {read} read and {len(found) - read} refused, none otherwise; "
        f"at most {slowest:.1f} s and {largest} MB"
    )
