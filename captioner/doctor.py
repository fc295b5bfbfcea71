"""`captioner doctor`: what of this machine and installation the program can use, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from captioner.checkpoint_files import BUNDLED
from captioner.errors import PIP, CaptionerError
from captioner.version import VERSION

_PHOTO = (640, 480)
_TIMES = 5
_CURE = f"{PIP} -r requirements.txt"
_UNITS = ("amx_bf16", "avx512_bf16", "avx512_f", "avx2", "bf16", "neon")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    mark : {"ok", "--", "WRONG"}
        All right; absent, which costs the named thing alone; or in the way of the program, with the cure.
    text : str
    """

    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark:<5}  {self.text}"


def examine() -> Iterator[Finding]:
    """Look at the installation and the machine, thing by thing."""
    yield Finding("ok", f"captioner {VERSION}, Python {platform.python_version()}, {platform.system()}")
    yield from _packages()
    yield from _devices()
    yield _java()
    yield _data()
    for checkpoint in sorted({BUNDLED, *filter(Path.is_dir, BUNDLED.parent.glob("*"))}):
        yield _model(checkpoint)


def _packages() -> Iterator[Finding]:
    try:
        requirements = metadata.requires("captioner") or []
    except metadata.PackageNotFoundError:
        yield Finding("WRONG", f"captioner: not installed, so what it needs is not known; {PIP} -e .")
        return
    for line in requirements:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate():
            continue
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding("WRONG", f"{needed.name}: not installed; {_CURE}")
            continue
        if needed.specifier.contains(version, prereleases=True):
            yield Finding("ok", f"{needed.name} {version}")
        else:
            yield Finding("WRONG", f"{needed.name} {version}: it must be {needed.specifier}; {_CURE}")


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from captioner.devices import choose_device, choose_precision

        here = [unit for unit in _UNITS if torch.cpu.get_capabilities().get(unit)]
        used = str(choose_precision("auto", torch.device("cpu"))).removeprefix("torch.")
    # Whatever is wrong with it is the finding; parts of torch that do not fit each other raise errors of many types.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        yield Finding("WRONG", f"torch cannot be used ({cause}); {_CURE}")
        return
    threads = torch.get_num_threads()
    yield Finding("ok", f"CPU: {threads} threads, {', '.join(here) or 'no vector units known'}; captions in {used}")
    if choose_device("auto").type == "cpu":
        yield Finding("--", "CUDA: no GPU that torch can use; the CPU does all the work")
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        used = str(choose_precision("auto", device)).removeprefix("torch.")
        yield Finding("ok", f"{device}: {torch.cuda.get_device_name(device)}; captions in {used}")


def _java() -> Finding:
    if shutil.which("java") is None:
        return Finding("--", "Java: not found, so METEOR and SPICE are left out of scores")
    try:
        said = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=True).stderr
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("--", f"Java: does not run ({error}), so METEOR and SPICE are left out of scores")
    version = re.search(r'version "([^"]+)"', said)
    return Finding("ok", f"Java {version[1] if version else 'of unknown version'}: METEOR can be scored")


def _data() -> Finding:
    folder = os.environ.get("CAPTIONER_DATA")
    if not folder:
        return Finding("--", "CAPTIONER_DATA: not set; recipes whose root is relative need it")
    if not Path(folder).is_dir():
        return Finding(
            "WRONG", f"CAPTIONER_DATA = {folder!r}: no such folder; name one that holds the data, or unset it"
        )
    return Finding("ok", f"CAPTIONER_DATA: {folder}")


def _model(checkpoint: Path) -> Finding:
    """Time the captioning of one photo as Python and the web app do it."""
    try:
        from PIL import Image

        from captioner.pipeline import Captioner

        captioner = Captioner.load(checkpoint)
        photo = Image.effect_noise(_PHOTO, 64).convert("RGB")
        captioner.caption(photo)  # the first one prepares what the others use
        seconds = []
        for _ in range(_TIMES):
            start = time.perf_counter()
            captioner.caption(photo)
            seconds.append(time.perf_counter() - start)
    except CaptionerError as error:
        return Finding("WRONG", f"bundled model {checkpoint.name}: {error}")
    # Whatever an installation may be wrong in, is to be told and not to end the examination.
    except Exception as error:
        return Finding("WRONG", f"bundled model {checkpoint.name}: {type(error).__name__}: {error}")
    took = 1000 * statistics.median(seconds)
    return Finding("ok", f"bundled model {checkpoint.name}: a caption takes {took:.0f} ms on {captioner.device}")
