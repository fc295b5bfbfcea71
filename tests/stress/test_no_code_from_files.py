"""Nothing of the program runs code out of a file: the calls that would are not in its source."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = [*(ROOT / "captioner").rglob("*.py"), *(ROOT / "app").rglob("*.py"), ROOT / "train.py", ROOT / "evaluate.py"]
MODULES = {"pickle", "marshal", "shelve", "joblib", "dill", "cloudpickle", "yaml", "imp"}
# What its processes send each other; no file is read.
OWN = {"captioner/batch/ray_engine.py": ["pickle"]}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.hub.load", "torch.jit.load"}


def faults(source: str) -> Iterator[str]:
    """Name what in a source could run code that is not in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & MODULES
        if isinstance(node, ast.ImportFrom):
            yield from {(node.module or "").split(".")[0]} & MODULES
            if node.module in ("torch", "numpy") and "load" in [alias.name for alias in node.names]:
                yield f"load of {node.module} by its bare name"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            wanted = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
            wanted["numpy.load"] = wanted["np.load"]
            if (
                called in CALLS
                or given.get("shell", "False") != "False"
                or given.get("allow_pickle", "False") != "False"
            ):
                yield called
            if called in wanted and given.get(wanted[called][0]) != wanted[called][1]:
                yield f"{called} without {'='.join(wanted[called])}"


def test_no_source_loads_a_pickle_or_runs_text(tally: Callable[[str], None]) -> None:
    found = {str(path.relative_to(ROOT)): list(faults(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert len(found) > 60
    assert {path: names for path, names in found.items() if names} == OWN
    tally(f"sources without a call that runs code from a file: {len(found)}")


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "import joblib.x as y",
        "from torch import load",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "numpy.load(p, allow_pickle=True)",
        "eval(x)",
        "exec(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "read(allow_pickle=flag)",
    ],
)
def test_the_test_can_fail(source: str) -> None:
    assert list(faults(source))


def test_what_is_safe_is_let_through() -> None:
    assert not list(
        faults("torch.load(p, weights_only=True); np.load(p, allow_pickle=False); model.eval(); re.compile(x)")
    )
