"""What the page says of a model besides what its files say: its card, and the command that scores it."""

from __future__ import annotations

import posixpath
import re
import shlex
from pathlib import Path

from captioner.checkpoint_files import BUNDLED

CARD = Path(__file__).parent.parent / "docs" / "model-card.md"
LOOKING = "Where the model looked, and what that does not tell"  # of any model, not only of the bundled ones


def is_bundled(checkpoint: Path) -> bool:
    """Whether the card is about this model."""
    return checkpoint.resolve().parent == BUNDLED.parent.resolve()


def card() -> str:
    """Give the card of the bundled models: Markdown that needs no file beside it, without its title."""
    return _for_page(CARD.read_text(encoding="utf-8").split("\n", 1)[1])


def section(title: str) -> str:
    """Give one section of the card."""
    return next(text for text in re.split("^(?=## )", card(), flags=re.M) if text.startswith(f"## {title}\n"))


def _for_page(text: str) -> str:
    # A link to another document leads nowhere from the page, so the document is named instead.
    return re.sub(r"\[[^]]*\]\((?!https?:)([^)]*)\)", lambda link: f"`{posixpath.normpath('docs/' + link[1])}`", text)


def evaluation(checkpoint: Path) -> str:
    """Give the command that scores a checkpoint."""
    return f".venv/bin/python evaluate.py {shlex.quote(str(checkpoint))}"
