"""Photos from strangers: whatever their bytes, each becomes an RGB picture or an error that names it."""

from __future__ import annotations

import io
import json
import re
import signal
import struct
import subprocess
import sys
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from captioner import pipeline
from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError
from captioner.images import MAX_PIXELS, MAX_SCANS, load_image, load_pixels
from captioner.models.show_attend_tell import ShowAttendTell
from captioner.pipeline import Captioner
from captioner.vocabulary import Vocabulary
from tests.stress.mutants import EXAMPLES, chunk, mutant
from tests.stress.reader import MOST_SECONDS

ROOT = Path(__file__).parents[2]
MOST_MEGABYTES = 1000
CONFIG = PreprocessingConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read_apart(names: Iterable[object], scratch: Path) -> Iterator[dict[str, Any]]:
    """Read photos in a process of their own: what became of each; the one that ends the process is named."""
    command = [sys.executable, "-m", "tests.stress.reader", str(scratch)]
    result = subprocess.run(
        command, cwd=ROOT, input="".join(f"{name}\n" for name in names), stdout=subprocess.PIPE, text=True
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    if result.returncode:
        cause = "no answer in time" if result.returncode == -signal.SIGPROF else f"exit {result.returncode}"
        raise AssertionError(f"{lines[-1] if lines else 'nothing read'}: the process ended ({cause})")
    yield from (line for line in lines if "end" in line)


def test_mutants_are_read_or_refused(
    tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    count = effort(400, 10_000)
    found = list(read_apart(range(count), tmp_path / "mutant"))
    assert len(found) == count
    assert [one for one in found if one["end"] not in ("read", "refused")] == []
    slowest, largest = (max(one[cost] for one in found) for cost in ("seconds", "megabytes"))
    assert slowest < MOST_SECONDS
    assert largest < MOST_MEGABYTES
    ends = Counter(one["end"] for one in found)
    assert min(ends["read"], ends["refused"]) > count / 5  # or the damage is too small or too great to tell anything
    tally(
        f"images, loader: {count:,} mutants, {ends['read']:,} read and {ends['refused']:,} refused, none otherwise; "
        f"at most {slowest:.1f} s and {largest} MB"
    )


def test_mutants_on_the_command_line(
    tmp_path: Path, effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    count = effort(150, 10_000)
    photos, output, errors = tmp_path / "photos", tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    photos.mkdir()
    for seed in range(count):
        # Others than those above.
        found = mutant(10**6 + seed)
        (photos / f"{seed}.{found.suffix}").write_bytes(found.data)
    command = [sys.executable, "-c", _WITH_PEAK, "caption", str(photos), "--output", str(output)]
    result = subprocess.run([*command, "--errors", str(errors)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 3, result.stderr
    captioned, failed = (
        [Path(json.loads(line)["image"]).name for line in file.read_text().splitlines()] for file in (output, errors)
    )
    assert sorted(captioned + failed) == sorted(path.name for path in photos.iterdir())
    *noise, summary, peak = result.stderr.splitlines()
    assert summary.startswith(f"{len(captioned)} captioned, 0 skipped, {len(failed)} failed")
    # What libtiff says of a damaged TIFF, two threads at once now and then, cannot be hushed; nothing else is said.
    assert [line for line in noise if any(map(str.isalpha, line)) and not _LIBTIFF.search(line)] == []
    assert int(peak) < 2500
    tally(
        f"images, command line: {count:,} mutants, {len(captioned):,} captioned and {len(failed):,} in --errors, "
        f"none in both or lost; {peak} MB, {summary.rpartition(', ')[2]}"
    )


_WITH_PEAK = """
import re, sys
from pathlib import Path
from captioner.cli import main
code = main(sys.argv[1:])
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024, file=sys.stderr)
sys.exit(code)
"""
_LIBTIFF = re.compile(r"scanline|strip|Decode|TIFF|JPEGLib|Not a JPEG file|^tempfile\.tif: ")


def test_errors_that_wait_for_their_turn_hold_no_pictures(
    tiny_model: ShowAttendTell, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of damaged photos would else be in memory all at once."""

    class Picture:
        pass

    pictures: weakref.WeakSet[Picture] = weakref.WeakSet()

    def damaged(source: object, config: object) -> None:
        picture = Picture()
        pictures.add(picture)
        try:
            raise OSError("cut short")
        except OSError as error:
            raise ImageReadError(f"{source}: {error}") from error

    monkeypatch.setattr(pipeline, "load_pixels", damaged)
    found = [error for _, error in Captioner(tiny_model, vocabulary).attempt_many(["a.jpg", "b.jpg", "c.jpg"])]
    assert [str(error) for error in found] == ["a.jpg: cut short", "b.jpg: cut short", "c.jpg: cut short"]
    assert not pictures


class Case(NamedTuple):
    """A whole file, and the picture it means."""

    what: str
    data: bytes
    upright: np.ndarray  # (H, W, 3)
    tolerance: int  # levels by which a pixel may differ


# How the stored rows and columns become the upright picture, as the EXIF standard has it.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}
SIZES = ((1, 1), (1, 9), (9, 1), (2, 3), (17, 16), (40, 31), (20_000, 2), (2, 5_000), (801, 808))
# Entries that promise data which is not there, or of a type that the tag does not have, beside a good orientation.
BROKEN_ENTRIES = (
    struct.pack("<HHII", 0x010F, 2, 1000, 99_999),
    struct.pack("<HHII", 0x8769, 4, 1, 0xFFFFFFFF),
    struct.pack("<HHII", 0x8825, 7, 4, 0x41424344),
    struct.pack("<HHII", 0x011A, 5, 1, 4),
    struct.pack("<HHII", 0x9C9C, 99, 7, 7),
    struct.pack("<HHII", 0x0132, 3, 2, 0xFFFF0001),
    struct.pack("<HHII", 0x0103, 12, 1, 0),
)


def exif_block(orientation: int, entries: tuple[bytes, ...] = ()) -> bytes:
    """Lay out an EXIF block by hand, with whatever else it is to hold."""
    found = [struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0), *entries]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(found)) + b"".join(found) + bytes(4)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a picture, a mode, a format that holds it, and the odd things that format may have."""
    width, height = draw(st.sampled_from(SIZES))
    kind = draw(st.sampled_from(sorted(STORED)))
    mode, formats = STORED[kind]
    format = draw(st.sampled_from(formats))
    if format.startswith("WEBP"):
        width = min(width, 16_383)  # all that it can hold
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lossy = format in ("JPEG", "MPO", "AVIF", "WEBP lossy")
    stored, seen, options = make(kind, numbers, (height, width), lossy)
    image = Image.fromarray(stored) if mode != "CMYK" else Image.fromarray(stored, mode="CMYK")
    if mode == "P":
        image = Image.fromarray(stored, mode="P")
        image.putpalette(options.pop("palette"))
    if mode == "1":
        image = Image.fromarray(stored).convert("1", dither=Image.Dither.NONE)
    format, _, lossless = format.partition(" ")
    if format == "WEBP":
        options |= {"quality": 95} if lossless == "lossy" else {"lossless": True, "exact": True}
    if format in ("JPEG", "MPO"):
        options |= {"quality": 95, "progressive": draw(st.booleans())}
    if format == "TIFF" and kind not in ("float", "int", "cmyk"):
        options |= {"compression": draw(st.sampled_from((None, "tiff_lzw", "tiff_adobe_deflate", "packbits")))}
    what = f"{kind} {format} {lossless} {width} x {height}"
    if format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF") and draw(st.booleans()):
        options["icc_profile"] = draw(st.sampled_from((SRGB, b"no profile" * 9)))
        what += " profile"
    if format in ("GIF", "PNG", "WEBP", "MPO") and kind in ("rgb", "palette") and width < 5000 and draw(st.booleans()):
        # More frames follow, of another colour.
        options |= {"save_all": True, "append_images": [Image.new("RGB", image.size, "lime").convert(mode)]}
        what += " animated"
    orientation = draw(st.sampled_from((None, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535)))
    if orientation is not None and format in ("JPEG", "PNG", "WEBP", "MPO"):
        broken = tuple(draw(st.lists(st.sampled_from(BROKEN_ENTRIES), max_size=3)))
        options["exif"] = exif_block(orientation, broken)
        seen = UPRIGHT[orientation](seen) if orientation in UPRIGHT else seen
        what += f" orientation {orientation} and {len(broken)} broken entries"
    buffer = io.BytesIO()
    image.save(buffer, format, **options)  # type: ignore[arg-type]
    return Case(what, buffer.getvalue(), seen, 12 if lossy else 2 if kind in ("cmyk", "rgba", "la") else 1)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # type: ignore[no-untyped-call]
# Kind of picture -> its mode, and formats that hold it
STORED = {
    "rgb": ("RGB", ("PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG", "MPO", "AVIF", "WEBP lossy")),
    "rgb keyed": ("RGB", ("PNG",)),
    "rgba": ("RGBA", ("PNG", "TIFF", "WEBP")),
    "grey": ("L", ("PNG", "TIFF", "BMP", "PPM", "JPEG")),
    "grey keyed": ("L", ("PNG",)),
    "la": ("LA", ("PNG", "TIFF")),
    "bits": ("1", ("PNG", "TIFF", "BMP", "PPM")),
    "palette": ("P", ("PNG", "TIFF", "BMP", "GIF")),
    "palette keyed": ("P", ("PNG", "GIF")),
    "palette clear": ("P", ("PNG",)),
    "deep": ("I;16", ("PNG", "TIFF")),
    "int": ("I", ("TIFF",)),
    "float": ("F", ("TIFF",)),
    "cmyk": ("CMYK", ("TIFF", "JPEG")),
}


def make(
    kind: str, numbers: np.random.Generator, shape: tuple[int, int], lossy: bool
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Draw what is stored, and work out what is to be seen and what the format has to be told."""

    def levels(*channels: int) -> np.ndarray:
        # Of one colour where the format may change it from pixel to pixel.
        if lossy or kind == "cmyk":
            return np.broadcast_to(numbers.integers(0, 256, channels, np.uint8), (*shape, *channels)).copy()
        return numbers.integers(0, 256, (*shape, *channels), np.uint8)

    def over_white(colour: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        share = opacity[..., None] / 255
        return np.broadcast_to(colour * share + 255 * (1 - share), (*shape, 3)).round()

    def grey(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[..., None], 3, -1)

    if kind.startswith("rgb") and kind != "rgba":
        stored = levels(3)
        if kind == "rgb":
            return stored, stored, {}
        key = stored[0, 0]
        clear = (stored == key).all(-1, keepdims=True)
        return stored, np.where(clear, 255, stored), {"transparency": tuple(map(int, key))}
    if kind in ("rgba", "la"):
        stored = levels(4 if kind == "rgba" else 2)
        return stored, over_white(stored[..., :-1], stored[..., -1]), {}
    if kind == "grey":
        stored = levels()
        return stored, grey(stored), {}
    if kind == "grey keyed":
        stored = levels()
        return stored, grey(np.where(stored == stored[0, 0], 255, stored)), {"transparency": int(stored[0, 0])}
    if kind == "bits":
        stored = 255 * numbers.integers(0, 2, shape, np.uint8)
        return stored, grey(stored), {}
    if kind.startswith("palette"):
        stored, palette = numbers.integers(0, 16, shape, np.uint8), numbers.integers(0, 256, (16, 3), np.uint8)
        options: dict[str, Any] = {"palette": palette.tobytes()}
        seen = palette[stored].astype(float)
        if kind == "palette keyed":
            options["transparency"] = int(stored[0, 0])
            seen[stored == stored[0, 0]] = 255
        if kind == "palette clear":
            opacity = numbers.integers(0, 256, 16, np.uint8)
            options["transparency"] = opacity.tobytes()
            seen = over_white(seen, opacity[stored])
        return stored, seen, options
    if kind == "cmyk":
        stored = levels(4)
        return stored, (255.0 - stored[..., :3]) * (255 - stored[..., 3:]) / 255, {}
    if kind == "deep":
        stored = numbers.integers(0, 65536, shape, np.uint16)
        return stored, grey(stored / 257), {}
    if kind == "int":
        stored = numbers.integers(-(2**31), 2**31, shape, np.int32)
    else:
        stored = (10.0 ** numbers.integers(-30, 30) * numbers.normal(size=shape)).astype(np.float32)
    low, high = float(stored.min()), float(stored.max())
    if kind == "int" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    values = (stored.astype(float) - low) / max(high - low, 1e-12)
    if kind == "float":
        odd = numbers.random(shape) < 0.2
        places = {np.nan: 0.0, np.inf: 1.0, -np.inf: 0.0}
        # Such are no part of the range; they are put beside the extremes, which therefore stay.
        odd.flat[[stored.argmin(), stored.argmax()]] = False
        for index, (number, level) in enumerate(places.items()):
            chosen = odd & (np.arange(stored.size).reshape(shape) % 3 == index)
            stored[chosen], values[chosen] = number, level
    return stored, grey(255 * values), {}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_whole_photos_of_every_kind_are_seen_as_they_are_meant(
    effort: Callable[[int, int], int], tally: Callable[[str], None]
) -> None:
    kinds: Counter[str] = Counter()

    @settings(max_examples=effort(120, 1_500), deadline=None, derandomize=True, database=None)
    @given(case=cases())
    def check(case: Case) -> None:
        image = load_image(case.data)
        assert image.mode == "RGB", case.what
        assert (image.height, image.width) == case.upright.shape[:2], case.what
        off = np.abs(np.asarray(image, float) - case.upright)
        # An average for what loses detail, for a pixel may lie on a block's edge.
        assert off.max() <= case.tolerance, (case.what, off.max())
        _, size = load_pixels(case.data, CONFIG)
        assert size == image.size, case.what
        assert load_image(image).tobytes() == image.tobytes(), case.what  # it is not turned again
        kinds[" ".join(case.what.split()[:2])] += 1

    check()
    tally(
        f"images, whole: {kinds.total():,} photos of {len(kinds)} kinds and formats, all of the right size and colours"
    )


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
