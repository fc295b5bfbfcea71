"""A process that reads photos, named on standard input, and says of each what became of it and what that cost."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import time
from pathlib import Path

from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError
from captioner.images import load_image, load_pixels
from tests.stress.mutants import mutant, originals

MOST_SECONDS = 10
_CONFIG = PreprocessingConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def read(line: str, scratch: Path) -> str:
    """Read the file, or the mutant of the number, as bytes and as a file: how that ended."""
    if line.isdecimal():
        found = mutant(int(line))
        scratch.write_bytes(found.data)
        sources: list[bytes | Path] = [found.data, scratch]
    else:
        sources = [Path(line)]
    ends = set()
    for source in sources:
        try:
            image = load_image(source)
            assert image.mode == "RGB", image.mode
            image.getpixel((image.width - 1, image.height - 1))
            del image
            pixels, size = load_pixels(source, _CONFIG)
            assert tuple(pixels.shape) == (3, 64, 64), pixels.shape
            assert min(size) > 0, size
            ends.add("read")
        except ImageReadError as error:
            name, _, cause = str(error).partition(": ")
            named = name == ("image" if isinstance(source, bytes) else str(source)) and "\n" not in cause
            ends.add(f"fault: {error}" if not named else "refused" if line.isdecimal() else cause)
        except Exception as error:
            ends.add(f"fault: {type(error).__name__}: {error}")
    return ", ".join(sorted(ends))


def peak() -> int:
    """Most memory since the peak was set back, MB; `ru_maxrss` cannot be, and begins with that of the parent."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024  # type: ignore[index]


def main() -> None:
    scratch = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    load_pixels(originals()[0].data, _CONFIG)  # what is imported and set up once is not counted
    for line in map(str.strip, sys.stdin):
        print(json.dumps({"name": line}), flush=True)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew from what is in memory now
        before, started = peak(), time.process_time()
        # Ends this process, wherever it is then.
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        end = read(line, scratch)
        signal.setitimer(signal.ITIMER_PROF, 0)
        cost = {"seconds": time.process_time() - started, "megabytes": peak() - before}
        print(json.dumps({"name": line, "end": end, **cost}), flush=True)


if __name__ == "__main__":
    main()
