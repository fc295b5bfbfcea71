"""Programs run to be measured: their messages, and the memory they had at most."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from captioner.errors import CaptionerError

ROOT = Path(__file__).parent.parent


def run(command: Sequence[str]) -> tuple[str, int]:
    """Run a program in the project's folder.

    Returns
    -------
    said : str
        What it wrote to standard error.
    peak : int
        Its peak memory in megabytes; 0 where there is no /proc.

    Raises
    ------
    CaptionerError
        If it fails.
    """
    peak = 0
    with tempfile.TemporaryFile("w+") as messages:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=messages)
        status = Path(f"/proc/{child.pid}/status")
        while child.poll() is None:
            # Not the usage that wait4() tells: it counts the memory of this process, too, which the child began with.
            found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
            peak = int(found[1]) // 1024 if found else peak
            time.sleep(0.02)
        messages.seek(0)
        said = messages.read()
    if child.returncode:
        raise CaptionerError(f"{' '.join(command)} failed: {said}")
    return said, peak
