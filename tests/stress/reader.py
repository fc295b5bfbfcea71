"""A process that reads photos, named on standard input, and says of each what became of it and what that cost."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from captioner.config import PreprocessingConfig
from captioner.errors import ImageReadError
from captioner.images import load_image, load_pixels
from tests.stress.mutants import mutant, originals

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_MEGABYTES = 10, 1000
_CONFIG = PreprocessingConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


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
