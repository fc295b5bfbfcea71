"""The parts of the page that are HTML: the caption and one figure per word."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from captioner.pipeline import Caption

STYLE = """
<style>
[data-testid="stMainBlockContainer"] { padding-top: 2.5rem; }
.sat-caption { font-family: Georgia, 'Times New Roman', serif; font-size: clamp(1.6rem, 3.2vw, 2.5rem);
  line-height: 1.25; margin: 0.2rem 0 0.6rem; text-wrap: balance; }
.sat-caption::first-letter { text-transform: uppercase; }
.sat-words { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 11.5rem), 1fr));
  gap: 1.4rem 1rem; margin-top: 0.4rem; }
.sat-words figure { margin: 0; }
.sat-words img { display: block; width: 100%; height: auto; border-radius: 0.5rem; }
.sat-words figcaption { display: flex; align-items: baseline; justify-content: space-between; gap: 0.5rem;
  margin-top: 0.35rem; font-size: 1.1rem; font-weight: 600; }
.sat-words small { font-weight: 400; opacity: 0.65; font-variant-numeric: tabular-nums; }
</style>
"""


def caption_line(caption: Caption) -> str:
    """Return the sentence as a headline."""
    return f'<p class="sat-caption">{html.escape(caption.text)}.</p>'


def word_figures(caption: Caption, overlays: Sequence[Image.Image]) -> str:
    """Return a figure per word: its overlay, the word, and its probability."""
    figures = []
    for word, probability, picture in zip(caption.words, caption.word_probs, overlays, strict=True):
        label = html.escape(word)
        figures.append(
            f'<figure><img src="{_data_url(picture)}" alt="Where the model looked for “{label}”" '
            f'width="{picture.width}" height="{picture.height}"><figcaption>{label}'
            f"<small>{probability:.0%}</small></figcaption></figure>"
        )
    return f'<div class="sat-words">{"".join(figures)}</div>'


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
