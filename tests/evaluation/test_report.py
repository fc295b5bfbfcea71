from __future__ import annotations

import base64
import dataclasses
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser

from captioner.config import DecodingOptions
from captioner.errors import CaptionerError
from captioner.evaluation.report import write_report
from captioner.evaluation.results import Evaluation, PhotoResult
from captioner.images import ImageSource
from captioner.metrics.score import CorpusScore, Floats, interval
from captioner.pipeline import Caption, Captioner
from tests.conftest import noise_photo

NASTY = """<script>alert("1 & 2")</script> it's"""
OPTIONS = DecodingOptions(beam_size=1, max_length=4)


class Tags(HTMLParser):
    """Every element of a page with its attributes, and the text of the page by the element it stands in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.tags[-1][0] if self.tags else "", " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts)


def ratio(totals: Floats) -> Floats:
    scores: Floats = totals[..., 0] / totals[..., 1]
    return scores


def score(name: str, values: NDArray[Any]) -> CorpusScore:
    return CorpusScore(name, np.stack([values, np.ones(len(values))], 1), ratio)


def evaluation(count: int, system: str = "soft", shift: float = 0.0, **changes: Any) -> Evaluation:
    """Photos whose score is ten times their number, in no order."""
    numbers = np.random.default_rng(3).permutation(count)
    return Evaluation(
        **{
            "system": system,
            "settings": {"data": "flickr8k", "split": "dev", "protocol": "coco", "words": "lower case", "beam_size": 1},
            "photos": tuple(
                PhotoResult(f"{n}.jpg", f"caption {n} of {system}", -1.0 - n, (f"reference {n}.",)) for n in numbers
            ),
            "scores": {
                "BLEU-4": score("BLEU-4", np.full(count, 21.5 + shift)),
                "CIDEr-D": score("CIDEr-D", 10.0 * numbers + shift),
            },
            "not_computed": {"SPICE": "needs Java"},
            "style": {"length_mean": 8.25},
            **changes,
        }
    )


class Stub(Captioner):
    """A captioner that knows what it says: the number of a photo, as often as it is told."""

    def __init__(self, words: int = 2, locations: bool = False) -> None:
        self.words, self.locations = words, locations

    def caption_many(
        self, images: Iterable[ImageSource], options: DecodingOptions | None = None, *_: object
    ) -> Iterator[Caption]:
        assert options == OPTIONS
        for image in images:
            words = (Path(str(image)).stem,) * self.words
            shares = (0.25,) * self.words
            attention = np.full((self.words, 4, 4), 1 / 16, np.float32)
            cells = ((0, 0),) * self.words if self.locations else None
            region = (0.0, 0.0, 80.0, 60.0)
            yield Caption(" ".join(words), words, -1.0, shares, attention, cells, 80, 60, region, shares, True)


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "photos").mkdir()
    for number in range(30):
        noise_photo(number).save(tmp_path / "photos" / f"{number}.jpg")
    return {path.name: path for path in (tmp_path / "photos").iterdir()}


def report(
    folder: Path, evaluations: Sequence[Evaluation], photos: dict[str, Path], captioner: Captioner | None = None
) -> tuple[str, Tags]:
    file = folder / "report.html"
    paths = [photos[photo.name] for photo in evaluations[0].photos if photo.name in photos]
    write_report(file, evaluations, paths, captioner or Stub(), OPTIONS)
    html = file.read_text(encoding="utf-8")
    return html, Tags(html)


def data_of(picture: dict[str, str | None]) -> bytes:
    return base64.b64decode(str(picture["src"]).partition(",")[2])


def sections(html: str) -> dict[str, list[str]]:
    """Captions of the photos in each group."""
    parts = re.findall(r'<section id="(best|worst|random)">(.*?)</section>', html, re.DOTALL)
    return {name: re.findall(r'<h3 class="caption">(.*?)</h3>', part) for name, part in parts}


def test_nothing_is_asked_for_elsewhere(tmp_path: Path, photos: dict[str, Path]) -> None:
    html, page = report(tmp_path, [evaluation(30), evaluation(30, "hard")], photos)
    sources = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    ]
    assert len(sources) > 24 * 3
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not page.all("script")
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\([\"']?(.)", html))


def test_a_photo_may_have_a_name_that_is_no_text(tmp_path: Path, photos: dict[str, Path]) -> None:
    odd = evaluation(2, photos=tuple(PhotoResult(f"\udcff{n}.jpg", "a", -1.0, ("b",)) for n in range(2)))
    html, _ = report(tmp_path, [odd], {f"\udcff{n}.jpg": photos[f"{n}.jpg"] for n in range(2)})
    assert r"\udcff0.jpg" in html


def test_ids_are_there_once_and_links_lead_to_them(tmp_path: Path, photos: dict[str, Path]) -> None:
    _, page = report(tmp_path, [evaluation(30)], photos)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = [str(attributes["href"])[1:] for attributes in page.all("a")]
    assert len(targets) == 6
    assert set(targets) <= set(ids)
    assert len(ids) == len(set(ids))


def test_best_worst_and_others_are_each_shown_once(tmp_path: Path, photos: dict[str, Path]) -> None:
    html, page = report(tmp_path, [evaluation(30)], photos)
    shown = sections(html)
    assert shown["best"] == [f"caption {n} of soft" for n in range(29, 21, -1)]
    assert shown["worst"] == [f"caption {n} of soft" for n in range(8)]
    assert len(set(shown["random"])) == 8
    assert set(shown["random"]) <= {f"caption {n} of soft" for n in range(8, 22)}
    for number in range(22, 30):
        assert f"reference {number}." in page.text
    # The same page comes again.
    assert html == report(tmp_path, [evaluation(30)], photos)[0]


@pytest.mark.parametrize(("count", "sizes"), [(2, (1, 1, 0)), (5, (3, 2, 0)), (18, (8, 8, 2))])
def test_a_small_split_shows_no_photo_twice(
    tmp_path: Path, photos: dict[str, Path], count: int, sizes: tuple[int, int, int]
) -> None:
    shown = sections(report(tmp_path, [evaluation(count)], photos)[0])
    assert tuple(len(shown.get(name, [])) for name in ("best", "worst", "random")) == sizes
    captions = [caption for group in shown.values() for caption in group]
    assert len(captions) == len(set(captions)) == min(count, 24)


def test_pictures_are_those_of_the_photos_and_all_are_described(tmp_path: Path, photos: dict[str, Path]) -> None:
    _, page = report(tmp_path, [evaluation(30)], photos)
    pictures = page.all("img")
    assert len(pictures) == 24 * 3
    assert all(picture["alt"] for picture in pictures)
    best, word, _ = pictures[:3]
    assert best["alt"] == "29.jpg: reference 29."
    assert word["alt"] == "Where the model looked for “29”"
    for picture, reference in ((best, noise_photo(29)), (word, noise_photo(29))):
        drawn = Image.open(io.BytesIO(data_of(picture)))
        assert drawn.size == reference.size
        assert np.corrcoef(np.asarray(drawn).ravel(), np.asarray(reference).ravel())[0, 1] > 0.9


def test_numbers_are_those_of_the_evaluations(tmp_path: Path, photos: dict[str, Path]) -> None:
    both = [evaluation(30), evaluation(30, "hard", shift=2.0)]
    html, page = report(tmp_path, both, photos)
    table = re.search(r'<table class="scores">.*?</table>', html, re.DOTALL)
    assert table
    cells = [Tags(cell).text for cell in re.findall(r"<td>(.*?)</td>", table[0].partition("<tbody>")[2], re.DOTALL)]
    values = [both[column].scores[name] for name in ("BLEU-4", "CIDEr-D") for column in (0, 1)]
    expected = ["{:.2f} {:.2f} to {:.2f}".format(value.value, *interval(value)) for value in values]
    # The second is better by 2 on every photo, and so in every draw.
    assert cells == [expected[0], f"{expected[1]} higher: > 0.99", expected[2], f"{expected[3]} higher: > 0.99"]
    assert "30 photos" in page.text
    assert "BLEU-4 21.5 CIDEr-D 290.0 hard, CIDEr-D 292.0 caption 29 of hard" in page.text
    # The higher a photo's score, the less sure was the caption.
    assert "soft: -1.00" in page.text
    for text in ("needs Java", "length mean 8.25 8.25", "beam size 1 1", "Protocol coco: lower case"):
        assert text in page.text


def test_a_score_that_only_one_system_has(tmp_path: Path, photos: dict[str, Path]) -> None:
    other = evaluation(30, "hard")
    only = {"CIDEr-D": other.scores["CIDEr-D"], "METEOR": score("METEOR", np.full(30, 19.0))}
    _, page = report(tmp_path, [evaluation(30), evaluation(30, "hard", scores=only)], photos)
    assert "BLEU-4 21.50 21.50 to 21.50 not computed" in page.text
    assert re.search(r"METEOR not computed 19\.00 19\.00 to 19\.00 (?!higher)", page.text)


def test_a_mean_of_nothing_is_not_shown_as_a_number(tmp_path: Path, photos: dict[str, Path]) -> None:
    scores = evaluation(30).scores
    empty = CorpusScore("objects", np.zeros((30, 2)), ratio)
    with np.errstate(invalid="ignore"):
        both = [evaluation(30, name, scores={**scores, "objects": empty}) for name in ("soft", "hard")]
        other = evaluation(30, "other", scores={**scores, "objects": score("objects", np.full(30, 19.0))})
        _, page = report(tmp_path, [*both, other], photos)
    assert "objects not computed not computed 19.00 19.00 to 19.00" in page.text
    assert not re.search(r"\bnan\b|objects [^a-z]*higher", page.text)


def test_a_score_that_says_nothing_about_one_photo_is_left_out(tmp_path: Path, photos: dict[str, Path]) -> None:
    scores = evaluation(30).scores
    nothing = CorpusScore("BLEU-4", np.stack([np.ones(30), np.arange(30) % 2], 1), ratio)
    with np.errstate(divide="ignore"):
        html, page = report(tmp_path, [evaluation(30, scores={**scores, "BLEU-4": nothing})], photos)
    assert sum(attributes.get("class") == "each" for attributes in page.all("dl")) == 24
    assert "inf" not in " ".join(re.findall(r"<dd>(.*?)</dd>", html))


def test_everything_from_data_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    noise_photo(0).save(path)
    name = '1" onerror="alert(1).jpg'
    nasty = evaluation(
        2,
        NASTY,
        settings={"data": NASTY, "split": NASTY, "protocol": NASTY, "words": NASTY, NASTY: NASTY},
        photos=(PhotoResult(name, NASTY, -1.0, (NASTY,)), PhotoResult("b.jpg", NASTY, -2.0, (NASTY,))),
        not_computed={NASTY: NASTY},
        style={NASTY: 1.0},
    )
    scores = {**nasty.scores, NASTY: score(NASTY, np.array([1.0, 2.0]))}
    nasty = dataclasses.replace(nasty, scores=scores)

    class Nasty(Stub):
        def caption_many(
            self, images: Iterable[ImageSource], options: DecodingOptions | None = None, *_: object
        ) -> Iterator[Caption]:
            for caption in super().caption_many(images, options):
                yield dataclasses.replace(caption, text=NASTY, words=(NASTY, "$x_1$"))

    html, page = report(tmp_path, [nasty, nasty], {name: path, "b.jpg": path}, Nasty())
    assert not page.all("script")
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)
    assert "<script" not in html
    assert page.text.count(NASTY) > 20
    assert any(str(picture["alt"]).startswith(f"{name}: {NASTY}") for picture in page.all("img"))


def test_a_caption_that_came_out_otherwise_is_shown_with_its_own_words(tmp_path: Path, photos: dict[str, Path]) -> None:
    html, _ = report(tmp_path, [evaluation(2)], photos)
    assert "it says: 1 1<" in html
    assert re.findall(r"<small>25 %</small>(\w+)<", html) == ["1", "1", "0", "0"]
    results = tuple(
        PhotoResult(photo.name, f"{photo.name[0]} {photo.name[0]}", -1.0, ("reference",))
        for photo in evaluation(2).photos
    )
    html, _ = report(tmp_path, [evaluation(2, photos=results)], photos)
    assert "it says:" not in html


def test_a_caption_without_words_and_one_with_frames(tmp_path: Path, photos: dict[str, Path]) -> None:
    plain, page = report(tmp_path, [evaluation(2)], photos, Stub(words=0))
    assert len(page.all("img")) == 2
    assert "in the frame" not in plain
    html, page = report(tmp_path, [evaluation(2)], photos, Stub(locations=True))
    assert "in the frame" in html
    drawn = Image.open(io.BytesIO(data_of(page.all("img")[1])))
    assert np.asarray(drawn, int).min(-1).max() > 200


def test_large_and_busy_photos_stay_small(tmp_path: Path) -> None:
    """Noise is the worst that can come; 24 photos of it with 20 words each keep to 6 MB."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    photos = dict.fromkeys((f"{number}.jpg" for number in range(2)), tmp_path / "photo.png")
    html, page = report(tmp_path, [evaluation(2)], photos, Stub(words=20))
    sizes = [len(data_of(picture)) for picture in page.all("img")]
    assert len(sizes) == 2 * 21
    assert max(sizes) < 65_000
    assert 12 * len(html) < 6_000_000


def test_tables_have_headers_with_scope(tmp_path: Path, photos: dict[str, Path]) -> None:
    _, page = report(tmp_path, [evaluation(30), evaluation(30, "hard")], photos)
    assert len(page.all("table")) == 4
    scopes = [attributes.get("scope") for attributes in page.all("th")]
    assert scopes.count("col") == 4 * 2
    assert set(scopes) == {"col", "row"}


def test_faults_are_named(tmp_path: Path, photos: dict[str, Path]) -> None:
    some = {name: path for name, path in photos.items() if name != "17.jpg"}
    with pytest.raises(CaptionerError, match="soft: evaluated on 30 photos, 29 are given"):
        report(tmp_path, [evaluation(30)], some)
    with pytest.raises(CaptionerError, match="hard: evaluated on other photos than soft"):
        report(tmp_path, [evaluation(30), evaluation(29, "hard")], photos)
    with pytest.raises(CaptionerError, match="hard: no CIDEr-D"):
        report(tmp_path, [evaluation(30), evaluation(30, "hard", scores={})], photos)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(CaptionerError, match="cannot be written"):
        report(tmp_path, [evaluation(30)], photos)


def test_a_real_model_fills_the_page(tmp_path: Path, photos: dict[str, Path], captioner: Captioner) -> None:
    html, _ = report(tmp_path, [evaluation(2)], photos, captioner)
    said = [caption.words for caption in captioner.caption_many([photos["1.jpg"], photos["0.jpg"]], OPTIONS)]
    assert re.findall(r"</small>(\w+)<", html) == [word for words in said for word in words]


def test_a_browser_shows_it_within_a_narrow_screen(tmp_path: Path, photos: dict[str, Path], browser: Browser) -> None:
    report(tmp_path, [evaluation(30), evaluation(30, "a-rather-long-name-of-a-run, beam 3")], photos, Stub(words=12))
    url = (tmp_path / "report.html").as_uri()
    strangers: list[str] = []
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
    page.on("request", lambda request: strangers.append(request.url) if request.url[:5] != "data:" else None)
    page.on("console", lambda message: errors.append(message.text))
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.close()
    assert strangers == [url, url]
    assert errors == []
