"""`captioner caption` on a terminal: the bar, and rows beside it."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from tests.batch.conftest import Caption


def test_a_terminal_sees_how_far_it_is(
    photos: Path, tmp_path: Path, caption: Caption, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    (photos / "bad.jpg").write_text("no image")
    for option, shown in (["--errors", "{tmp}/errors"], True), (["--quiet"], False):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert caption(photos, "--output", tmp_path / "out.jsonl", *(o.format(tmp=tmp_path) for o in option)) == 3
        assert ("5/5" in terminal.getvalue()) == shown


def test_on_a_terminal_captions_stand_on_lines_of_their_own(
    photos: Path, caption: Caption, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    screen = io.BytesIO()
    terminal = Terminal(screen, "utf-8", write_through=True)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, terminal)
    assert caption(photos) == 0
    written = screen.getvalue().decode()
    assert "4/4" in written
    # The bar is wiped off its line, by spaces and a return to its beginning, before a row is put there.
    assert [written[found.start() - 1] for found in re.finditer(r'\{"image"', written)] == ["\r"] * 4
