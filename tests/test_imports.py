"""The house's walls: imports go one way."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "captioner"
# Each room may import only from rooms above it.
ORDER = [
    "version",
    "errors",
    "paths",
    "files",
    "ending",
    "plain_json",
    "settings",
    "devices",
    "config",
    "recipe",
    "prefetch",
    "progress",
    "vocabulary",
    "images",
    "regions",
    "sight",
    "hypotheses",
    "models.weights",
    "models.inference",
    "models.cutting",
    "models.depthwise",
    "models.backbones",
    "models.grids",
    "models.encoder",
    "models.attention",
    "models.decoder",
    "models.show_attend_tell",
    "decoding",
    "search",
    "checkpoint_files",
    "checkpoint",
    "description",
    "data.files",
    "data.readers",
    "data.annotations",
    "data.instances",
    "data.check",
    "data.photos",
    "data.features",
    "data.dataset",
    "metrics.attention",
    "metrics.score",
    "metrics.bleu",
    "metrics.rouge",
    "metrics.cider",
    "metrics.meteor",
    "metrics.spice",
    "metrics.scoring",
    "metrics.style",
    "visualization",
    "pipeline",
    "training.distributed",
    "training.objective",
    "training.cross_entropy",
    "training.hard_attention",
    "training.self_critical",
    "training.run_log",
    "training.validation",
    "training.resuming",
    "training.averaging",
    "training.trainer",
    "evaluation.localization",
    "evaluation.deletion",
    "evaluation.perplexity",
    "evaluation.scores",
    "evaluation.results",
    "evaluation.table",
    "evaluation.measure",
    "evaluation.evaluator",
    "evaluation.figures",
    "evaluation.report",
    "history",
    "curves",
    "batch.job",
    "batch.hashes",
    "batch.attention_files",
    "batch.records",
    "batch.local",
    "batch.ray_engine",
    "batch.listing",
    "batch.journal",
    "batch.formats",
    "batch.sidecars",
    "batch.run",
    "batch.command",
    "serve",
    "doctor",
    "cli",
    "__main__",
]


def _room(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module or "")
    return names


def test_every_room_is_in_the_order() -> None:
    rooms = {_room(path) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert rooms == set(ORDER)


def test_rooms_import_only_from_rooms_above() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "__init__.py":
            continue  # the package root gathers the names users import; nothing inside imports it
        room = _room(path)
        for name in _imports(path):
            top = name.split(".")[0]
            assert top not in {"app", "train", "evaluate"}, f"{room} imports {name}"
            if top == "captioner":
                assert name != "captioner", f"{room} imports the package root"
                imported = name.removeprefix("captioner.")
                assert path.name == "__init__.py" or ORDER.index(imported) < ORDER.index(room), f"{room} imports {name}"
