"""The page's source: every card and count, text escaped, nothing external, lost images said, samples that are fair."""

import base64
import hashlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from gallery_files import HOSTILE, TAG, pair, quadruple, write_lines, write_world
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from pairuni.config import GalleryConfig
from pairuni.data.overview import histogram
from pairuni.pages.gallery import stratified, write_gallery
from pairuni.pages.histogram import similarity_chart

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Tags with their attributes, text, and cards by section; fails on a tag that is closed wrongly or never."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cards: dict[str, list[dict[str, str]]] = {}
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [], "never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if tag == "section":
            self.cards[given["data-section"]] = []
        if tag == "article":
            list(self.cards.values())[-1].append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def ids(self, section: str) -> list[str]:
        return [json.loads(card["data-ids"])[0] for card in self.cards[section]]

    def images(self) -> list[Image.Image]:
        uris = [given["src"] for tag, given in self.tags if tag == "img"]
        assert all(re.match(r"data:image/(png|jpeg);base64,", uri) for uri in uris)
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


def render(pairs: Path, **options) -> tuple[Page, dict]:
    summary = write_gallery(GalleryConfig(str(pairs), **options))
    return Page(Path(summary["page"])), summary


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_world(tmp_path)


def test_everything_beside_the_pairs_is_on_the_page(pairs: Path) -> None:
    page, summary = render(pairs)
    assert summary["page"] == str(pairs.parent / "gallery.html")
    assert page.ids("pairs") == ["a0", "r0", "r1", "r2"] and page.ids("unmatched") == ["u9", "u8"]
    assert page.ids("removed") == ["c0", "c1"] and page.ids("rejected") == ["x0", "x1"]
    assert [card["data-similarity"] for card in page.cards["pairs"]] == ["1.0", "0.7", "0.9", "0.651234"]
    assert [json.loads(card["data-tags"]) for card in page.cards["pairs"]][2] == ["cats", TAG]
    assert {card["data-reason"] for card in page.cards["rejected"]} == {"no reply"}
    for shown in ("two umbrellas on a beach", "Which is u2? A. this B. that", "no reply: late", "of a big red bus"):
        assert shown in page.text
    # Counts are of the file; in both halves g0 counts once.
    for row in ("aligned 1", "retrieved 3", "generation 4 1", "understanding 0 3", "cats 2 1", "removed: near copy"):
        assert row in page.text
    assert "median 0.30, 90 % within 0.10 to 0.55" in page.text and "features: colour_hog-1" in page.text
    assert "pair: notice " + " ".join(HOSTILE.split()) in page.text


def test_an_aligned_pair_shows_one_image_and_a_copy_what_it_copies(pairs: Path) -> None:
    page, _ = render(pairs)
    colours = [image.convert("RGB").getpixel((3, 3)) for image in page.images()]
    magenta, green, blue, cyan, red, yellow = (
        colours.count(colour)
        for colour in ((255, 0, 255), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 0, 0), (255, 255, 0))
    )
    assert magenta == 2  # the aligned pair, and beside its copy c0
    assert (green, blue, cyan, red, yellow) == (2, 2, 1, 2, 2)


def test_nothing_is_external_and_only_our_script_may_run(pairs: Path) -> None:
    page, _ = render(pairs)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:").startswith("data:") and attributes.get("href", "#").startswith("#")
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert "url(" not in page.source and "@import" not in page.source
    assert len(page.scripts) == 1
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    policy = next(each["content"] for tag, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}';" in policy


def test_hostile_text_is_shown_and_escaped(pairs: Path) -> None:
    page, _ = render(pairs)
    assert page.source.count("<script") == 1 and "onerror=document" not in page.source
    assert page.text.count(" ".join(HOSTILE.split())) == 4  # notice, prompt of r0, two rejected
    assert [given["value"] for tag, given in page.tags if tag == "option"].count(TAG) == 1


def test_lost_images_have_a_placeholder_and_are_counted(pairs: Path) -> None:
    (pairs.parent / "images" / "cyan.png").write_bytes(b"no image")
    page, summary = render(pairs)
    assert summary["sections"]["pairs"] == {"total": 4, "shown": 4, "lost": 2}
    assert summary["sections"]["rejected"]["lost"] == 2 and summary["sections"]["removed"]["lost"] == 0
    assert "pairs: 2 missing or broken images, with a placeholder for each." in page.text
    assert "No image images/gone.png: no such image" in page.text
    assert re.search(r"No image images/cyan.png: cannot be read as an image", page.text)


def test_rejected_samples_come_from_where_the_quadruples_are(pairs: Path, tmp_path: Path) -> None:
    named = write_lines(tmp_path / "other" / "r.jsonl", [{"id": "z", "image_path": "z.png", "reason": "why"}])
    Image.new("RGB", (30, 30), (1, 2, 3)).save(tmp_path / "other" / "z.png")
    page, _ = render(pairs, rejected=[str(named), str(tmp_path / "complete" / "rejected.jsonl")])
    assert page.ids("rejected") == ["z", "x0", "x1"]  # instead of the default, in this order
    assert (1, 2, 3) in [image.convert("RGB").getpixel((0, 0)) for image in page.images()]  # beside its own file
    (tmp_path / "complete" / "rejected.jsonl").rename(tmp_path / "rejected.jsonl")
    assert render(pairs)[0].ids("rejected") == ["x0", "x1"]  # beside the pairs, where `complete` and `pair` share one


def test_pairs_alone_make_a_page(pairs: Path, tmp_path: Path) -> None:
    for name in ("pairing.json", "removed.jsonl", "unmatched.jsonl"):
        (tmp_path / name).unlink()
    page, summary = render(pairs, out=str(tmp_path / "new" / "page.html"))
    assert list(page.cards) == ["pairs"] and "No pairing.json beside the pairs" in page.text
    assert Path(summary["page"]) == tmp_path / "new" / "page.html"


def test_a_pairing_of_another_file_is_said(pairs: Path) -> None:
    assert "written with another pairs file" not in render(pairs)[0].text
    pairs.write_text(pairs.read_text() + "\n")
    assert "written with another pairs file" in render(pairs)[0].text


def test_a_pairing_without_retrieved_pairs_has_a_page(pairs: Path) -> None:
    """`pair` writes null for quantiles of nothing."""
    record = json.loads((pairs.parent / "pairing.json").read_text())
    (pairs.parent / "pairing.json").write_text(json.dumps({**record, "similarity": None, "random_pair_cosine": None}))
    assert render(pairs)[0].cards["pairs"]


def test_image_root(tmp_path: Path) -> None:
    pairs = write_world(tmp_path / "data")
    (tmp_path / "data" / "images").rename(tmp_path / "images")
    assert render(pairs)[1]["sections"]["pairs"]["lost"] == 7
    assert render(pairs, image_root=str(tmp_path))[1]["sections"]["pairs"]["lost"] == 1


def test_large_images_become_small_jpegs_and_small_ones_stay_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, size, dtype=np.uint8) for size in ((60, 40, 3), (900, 600, 3)))
    (tmp_path / "images").mkdir()
    for name, pixels in (("s", small), ("l", large)):
        Image.fromarray(pixels).save(tmp_path / f"images/{name}.png")
    halves = quadruple("g", "s", "generation", "t"), quadruple("u", "l", "understanding", "t")
    page, _ = render(write_lines(tmp_path / "p.jsonl", [pair("r", 0.8, *halves)]), thumbnail=150)
    first, second = page.images()
    assert first.format == "PNG" and np.array_equal(np.asarray(first), small)
    assert second.format == "JPEG" and second.size == (100, 150)


def test_a_large_file_is_sampled_and_the_page_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"images/{name}.png")
    rows = []
    for n in range(300):
        g, u = quadruple(f"g{n}", "a", "generation", f"t{n % 3}"), quadruple(f"u{n}", "b", "understanding", "c")
        rows.append(pair(f"p{n}", 1.0, g, g) if n % 3 == 0 else pair(f"p{n}", 0.6 + n / 1000, g, u))
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    page, _ = render(path, limit=30, seed=3)
    ids = page.ids("pairs")
    assert len(ids) == 30 and ids == sorted(set(ids), key=lambda id: int(id[1:]))
    assert Counter(card["data-kind"] for card in page.cards["pairs"]) == {"aligned": 10, "retrieved": 20}
    assert "30 of 300 pairs are on this page: a sample (seed 3)" in page.text and "retrieved 200" in page.text
    similarities = sorted(float(c["data-similarity"]) for c in page.cards["pairs"] if c["data-kind"] == "retrieved")
    assert similarities[0] < 0.62 and similarities[-1] > 0.88  # ten rows to a stretch
    assert render(path, limit=30, seed=3)[0].source == page.source
    other = render(path, limit=30, seed=4)[0].ids("pairs")
    assert {id for id in other if int(id[1:]) % 3} != {
        id for id in ids if int(id[1:]) % 3
    }  # retrieved ones have no ties
    assert len(render(path, limit=0)[0].ids("pairs")) == 300


@given(st.lists(st.sampled_from("abc"), max_size=60), st.integers(0, 70), st.integers(0, 3))
def test_samples_are_fair(keys: list[str], limit: int, seed: int) -> None:
    chosen = stratified([(key,) for key in keys], limit, seed)
    size = len(keys) if limit == 0 else min(limit, len(keys))
    assert len(chosen) == size and chosen == sorted(set(chosen)) and all(0 <= n < len(keys) for n in chosen)
    for key, number in Counter(keys).items():
        assert abs(sum(keys[n] == key for n in chosen) - number * size / len(keys)) < 2


@given(st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=1), st.sampled_from([10, 20, 50]))
@example([0.58], 50)
def test_the_histogram_counts_every_value_in_its_bin(values: list[float], bins: int) -> None:
    found = histogram(values, bins)
    assert sum(number for *_, number in found) == len(values) and found[-1][1] == 1 and found[0][2] > 0
    for low, high, number in found:
        last = high == 1
        assert number == sum(round(low * 1000) <= round(v * 1000) < round(high * 1000) + last for v in values)


def test_the_chart_is_to_scale() -> None:
    quantiles = {"0.05": 0.2, "0.25": 0.3, "0.5": 0.4, "0.75": 0.5, "0.95": 0.6}
    chart = similarity_chart([0.72, 0.73, 0.9], quantiles)
    assert chart is not None and chart.random is not None and chart.most == 2
    heights = {round(bar.low, 2): bar.height for bar in chart.bars if bar.number}
    left, right, top, base = chart.area
    assert heights == {0.7: base - top, 0.9: (base - top) / 2}
    assert [tick.text for tick in chart.ticks] == ["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]
    assert (chart.ticks[0].x, chart.ticks[-1].x) == (left, right) and chart.random.median == chart.ticks[2].x
    assert similarity_chart([], quantiles) is None
    alone = similarity_chart([0.72], {"0.5": 0.1})  # not all the quantiles: none is drawn
    assert alone is not None and alone.random is None


def test_the_documented_address_is_the_scripts(pairs: Path) -> None:
    page, _ = render(pairs)
    names = re.findall(r'"(\w+)"', re.findall(r"const NAMES = \[(.*?)\]", page.scripts[0])[0])
    document = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text(encoding="utf-8")
    listed = document.partition("The address holds the filters")[2].partition("\n## ")[0]
    assert sorted(names) == sorted(re.findall(r"`(\w+)`", " ".join(re.findall(r"^- (`.*?`): ", listed, re.MULTILINE))))
