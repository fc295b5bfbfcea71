"""Photos of every format with their bytes damaged: the same number gives the same file."""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from captioner.images import load_image

EXAMPLES = Path(__file__).parents[2] / "examples"
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Original:
    """A whole photo, before it is damaged."""

    suffix: str
    data: bytes


@functools.cache
def originals() -> tuple[Original, ...]:
    """Photos of every format the loader knows, in many of the ways there are to write it."""
    photos = [load_image(path) for path in sorted(EXAMPLES.glob("*.jpg"))]
    for photo in photos:
        photo.thumbnail((150, 150))
    small, other = photos[0], photos[1].resize(photos[0].size)
    palette, grey, clear = small.quantize(32), small.convert("L"), small.convert("RGBA")
    clear.putalpha(other.convert("L"))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = 6, "a photo", b"note" * 20
    frames: dict[str, object] = {"save_all": True, "append_images": [other, small]}

    def written() -> Iterator[tuple[str, Image.Image, dict[str, object]]]:
        yield "jpg", photos[1], {}
        yield "jpg", photos[1], {"progressive": True}
        yield "jpg", photos[1], {"exif": exif, "dpi": (72, 72)}
        yield "jpg", photos[1], {"subsampling": 0, "quality": 30}
        yield "jpg", grey, {"optimize": True}
        yield "jpg", small.convert("CMYK"), {"restart_marker_rows": 2}
        yield "jpg", photos[2].resize((900, 700)), {"progressive": True}  # large enough to be read smaller
        yield "mpo", small, {**frames, "exif": exif}
        for image in (small, clear, grey, grey.convert("I;16"), palette, grey.convert("1")):
            yield "png", image, {"exif": exif}
        yield "png", palette, {"transparency": 3, "bits": 4}
        yield "png", clear, frames
        yield "webp", small, {"quality": 40}
        yield "webp", clear, {"lossless": True}
        yield "webp", small, {"exif": exif}
        yield "webp", small, frames
        yield "gif", palette, {"interlace": 1, "transparency": 2}
        yield "gif", small, frames
        yield "bmp", small, {}
        yield "bmp", palette, {}
        yield "bmp", grey.convert("1"), {}
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma"):
            yield "tiff", small, {"compression": compression, "exif": exif}
        for image in (
            grey.convert("I;16"),
            grey.convert("F"),
            palette,
            clear,
            small.convert("CMYK"),
            small.convert("LAB"),
        ):
            yield "tiff", image, {}
        yield "tiff", grey.convert("1"), {"compression": "group4"}
        yield "tiff", small, {**frames, "big_tiff": True}
        yield "tiff", small, {"compression": "tiff_deflate", "tiffinfo": {322: 64, 323: 64}}
        yield "avif", small, {"quality": 40, "exif": exif}
        yield "avif", clear, {"speed": 10}
        yield "avif", small, {"speed": 10, **frames}
        yield "ppm", small, {}
        yield "pgm", grey, {}

    made = []
    for suffix, image, options in written():
        buffer = io.BytesIO()
        # Copies, for what Pillow notes on a picture when it writes a JPEG would reach its other writers.
        copies = {
            name: [one.copy() for one in value] if isinstance(value, list) else value for name, value in options.items()
        }
        image.copy().save(buffer, {"jpg": "JPEG", "pgm": "PPM"}.get(suffix, suffix.upper()), **copies)  # type: ignore[arg-type]
        made.append(Original(suffix, buffer.getvalue()))
    text = " ".join(str(value) for value in grey.resize((24, 20)).tobytes())
    made.append(Original("pgm", f"P2\n# by hand\n24 20\n255\n{text}\n".encode()))
    made.append(Original("png", _interlaced(made[[one.suffix for one in made].index("png")].data)))
    return tuple(made)


def mutant(seed: int) -> Original:
    """Damage a photo in one to four ways."""
    draw = random.Random(seed)
    chosen = draw.choice(originals())
    data = bytearray(chosen.data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        draw.choice(_DAMAGES)(data, draw)
    if chosen.suffix == "png" and draw.random() < 0.8:
        _mend_checksums(data)  # or hardly any damage would come past them
    return Original(chosen.suffix, bytes(data))


def _place(data: bytearray, draw: random.Random) -> int:
    """Choose a byte; half the time one of the first, where headers are, or of the last, where TIFF has its own."""
    if draw.random() < 0.4:
        return draw.randrange(min(len(data), 256) or 1)
    if draw.random() < 0.2:
        return max(0, len(data) - 1 - draw.randrange(300))
    return draw.randrange(len(data) or 1)


def _flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 3, 30))):
        place = _place(data, draw)
        data[place : place + 1] = bytes([(data[place] if data else 0) ^ 1 << draw.randrange(8)])


def _set_field(data: bytearray, draw: random.Random) -> None:
    size, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    place = _place(data, draw)
    data[place : place + size] = (draw.choice(_EXTREMES) % 256**size).to_bytes(size, order)  # type: ignore[arg-type]


def _insert(data: bytearray, draw: random.Random) -> None:
    place = _place(data, draw)
    data[place:place] = draw.choice((draw.randbytes(draw.randrange(1, 200)), b"\0" * 64, b"\xff" * 64))


def _delete(data: bytearray, draw: random.Random) -> None:
    place = _place(data, draw)
    del data[place : place + draw.choice((1, 2, 16, 500))]


def _truncate(data: bytearray, draw: random.Random) -> None:
    del data[_place(data, draw) :]


def _splice(data: bytearray, draw: random.Random) -> None:
    other = draw.choice(originals()).data
    start, place = draw.randrange(len(other)), _place(data, draw)
    data[place : place + draw.choice((0, 300))] = other[start : start + draw.randrange(1, 600)]


def _repeat(data: bytearray, draw: random.Random) -> None:
    place = _place(data, draw)
    data[place:place] = data[place : place + draw.randrange(1, 400)] * draw.choice((1, 2, 50))


def _blank(data: bytearray, draw: random.Random) -> None:
    place = _place(data, draw)
    size = min(draw.randrange(1, 300), len(data) - place)
    data[place : place + size] = draw.choice((b"\0", b"\xff")) * size


def _shape(data: bytearray, draw: random.Random) -> None:
    """Claim another width or height where the format has it."""
    size = draw.choice((0, 1, 7, 5000, 16383, 65535, 2**31 - 1, 2**32 - 1))
    if data[:4] == b"\x89PNG":
        place = draw.choice((16, 20))
        data[place : place + 4] = struct.pack(">I", size)
    elif data[:2] == b"BM":
        place = draw.choice((18, 22))
        data[place : place + 4] = struct.pack("<I", size)
    elif data[:3] == b"GIF":
        place = draw.choice((6, 8))
        data[place : place + 2] = struct.pack("<H", size % 65536)
    elif (place := max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))) > 0:
        place += draw.choice((5, 7))
        data[place : place + 2] = struct.pack(">H", size % 65536)
    else:
        _set_field(data, draw)


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip,
    _set_field,
    _set_field,
    _insert,
    _delete,
    _truncate,
    _splice,
    _repeat,
    _blank,
    _shape,
)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Lay out a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _mend_checksums(data: bytearray) -> None:
    place = 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 8 + size
        if end + 4 > len(data):
            return
        struct.pack_into(">I", data, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4


def _interlaced(png: bytes) -> bytes:
    """Write a photo in Adam7's seven passes, which Pillow reads and does not write."""
    image = load_image(png)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = bytearray()
    for left, top, across, down in passes:
        for y in range(top, image.height, down):
            rows += b"\0"
            for x in range(left, image.width, across):
                rows += bytes(image.getpixel((x, y)))  # type: ignore[arg-type]
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    return png[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")


def exif_block(orientation: int, entries: tuple[bytes, ...] = ()) -> bytes:
    """Lay out an EXIF block by hand, with whatever else it is to hold."""
    found = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0), *entries]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(found)) + b"".join(found) + bytes(4)
