"""The page in a real browser: which cards are visible for an address, what controls do, and that it is not blank."""

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from gallery_files import COLOURS, TAG, write_world
from PIL import Image

from pairuni.config import GalleryConfig
from pairuni.pages.gallery import write_gallery

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser (apt-get install --no-install-recommends chromium)"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    return Path(write_gallery(GalleryConfig(str(write_world(folder))))["page"])


def browse(page: Path, hash: str, *options: str) -> str:
    """What the browser prints; each call has a profile of its own."""
    assert BROWSER is not None
    profile = page.parent / f"profile-{os.urandom(4).hex()}"
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ]
    address = page.as_uri() + (f"#{hash}" if hash else "")
    done = subprocess.run([*command, *options, address], capture_output=True, text=True, timeout=120, check=False)
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(page: Path, hash: str) -> str:
    return browse(page, hash, "--virtual-time-budget=3000", "--dump-dom")


def visible(html: str) -> list[str]:
    """Ids of the cards that neither they nor their section hide, in order."""
    found = []
    for attributes, body in re.findall(r"<section([^>]*)>(.*?)</section>", html, re.DOTALL):
        if re.search(r"\bhidden\b", attributes):
            continue
        for card, inside in re.findall(r'<article([^>]*class="card"[^>]*)>(.*?)</article>', body, re.DOTALL):
            if not re.search(r"\bhidden=", re.sub(r"data-\w+=(\"[^\"]*\"|'[^']*')", "", card)):
                found.append(unescape(re.findall(r'<a class="find"[^>]*>([^<]*)</a>', inside)[0]))
    return found


VIEWS = {
    "": ["a0", "r0", "r1", "r2"],
    "kind=retrieved": ["r0", "r1", "r2"],
    "kind=aligned": ["a0"],
    "kind=retrieved&min=0.7": ["r0", "r1"],
    "min=0.66&max=0.8": ["r0"],
    "max=0.651234": ["r2"],
    "tag=cats": ["a0", "r1"],
    f"tag={quote(TAG, safe='')}": ["r1"],
    "tag=none-has-it": [],
    "text=UMBRELLA+dog": ["r0"],
    "text=beach": ["a0"],
    "kind=retrieved&tag=dogs&max=0.69": ["r2"],
    "id=r1": ["r1"],
    "id=u1": ["r0"],
    "side=understanding": ["r0", "r1", "r2"],
    "sort=falling": ["a0", "r1", "r0", "r2"],
    "sort=rising&kind=retrieved": ["r2", "r0", "r1"],
    "min=abc&kind=": ["a0", "r0", "r1", "r2"],
    "show=nowhere": ["a0", "r0", "r1", "r2"],
    "reason=no+reply": ["a0", "r0", "r1", "r2"],  # pairs have no reason: not a filter here
    "show=removed": ["c0", "c1"],
    "show=removed&max=0.98": ["c0"],
    "show=removed&reason=text+of+a+reference+set&kind=aligned": ["c1"],
    "show=removed&id=g0": ["c0"],
    "show=unmatched&text=lamp": ["u9"],
    "show=rejected&min=0.9": ["x0", "x1"],
}


# Loads the page once per address, each in a frame of its own, and prints the address and the document of each.
FRAMES = """<!doctype html><title>frames</title><body><script>
for (const address of ADDRESSES) {
  const frame = document.createElement("iframe");
  frame.onload = () => setTimeout(() => {
    const seen = document.createElement("pre");
    seen.textContent = frame.contentDocument.documentElement.outerHTML;
    seen.dataset.address = address;
    document.body.append(seen);
    frame.remove();
  }, 200);
  frame.src = address;
  document.body.append(frame);
}
</script>"""


@pytest.fixture(scope="module")
def documents(page: Path) -> dict[str, str]:
    """The document of each of VIEWS, as one browser shows it."""
    addresses = {page.name + (f"#{view}" if view else ""): view for view in VIEWS}
    frames = page.with_name("frames.html")
    frames.write_text(FRAMES.replace("ADDRESSES", json.dumps(list(addresses))))
    html = browse(frames, "", "--allow-file-access-from-files", "--virtual-time-budget=20000", "--dump-dom")
    found = re.findall(r'<pre data-address="([^"]*)">(.*?)</pre>', html, re.DOTALL)
    return {addresses[unescape(address)]: unescape(document) for address, document in found}


@pytest.mark.parametrize("view", VIEWS)
def test_an_address_shows_exactly_its_cards(view: str, documents: dict[str, str]) -> None:
    html = documents[view]
    assert visible(html) == VIEWS[view]
    name = re.search(r"show=(\w+ed)", view)
    section = html.partition(f'data-section="{name[1] if name else "pairs"}"')[2].partition("</section>")[0]
    assert f">{len(VIEWS[view])} of {section.count('<article')} cards<" in html
    assert ('<p class="none quiet">' in section) == (VIEWS[view] == [])  # without `hidden`


def test_hostile_text_does_not_run_and_no_other_script_could(page: Path) -> None:
    html = dump(page, "")
    assert "<title>Pairs of " in html and "broken" in html
    injected = page.with_name("injected.html")
    injected.write_text(page.read_text().replace("</main>", "<script>document.title='broken'</script></main>"))
    assert "<title>Pairs of " in dump(injected, "")


CLICKS = """
const set = (name, value) => {
  const control = document.querySelector(`[name=${name}]`);
  control.value = value;
  control.dispatchEvent(new Event("input"));
};
set("kind", "retrieved");
setTimeout(() => set("min", "0.7"), 50);
setTimeout(() => set("text", "umbrella & dog"), 100);
setTimeout(() => set("text", "dog"), 150);
setTimeout(() => { document.title = location.hash; }, 300);
"""


def test_controls_write_the_address_and_follow_it(page: Path) -> None:
    clicked = page.with_name("clicked.html")
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    clicked.write_text(source.replace("</body>", f"<script>{CLICKS}</script></body>"))
    html = dump(clicked, "")
    assert visible(html) == ["r0"]
    title = unescape(re.findall("<title>(.*?)</title>", html)[0])
    assert title == "#kind=retrieved&min=0.7&text=dog"
    assert visible(dump(page, title[1:])) == ["r0"]


def test_the_cards_are_seen(page: Path) -> None:
    def pixels(hash: str) -> dict[str, int]:
        shot = page.with_name("shot.png")
        browse(page, hash, "--window-size=1200,1600", f"--screenshot={shot}")
        with Image.open(shot) as file:
            image = np.asarray(file.convert("RGB"))
        assert image.std() > 5  # not blank
        return {name: int((image == colour).all(axis=2).sum()) for name, colour in COLOURS.items()}

    aligned, removed = pixels("kind=aligned"), pixels("show=removed")
    assert aligned["magenta"] > 10_000 and not any(n for name, n in aligned.items() if name != "magenta")
    assert removed["red"] > 20_000 and removed["magenta"] > 10_000 and removed["green"] == 0
    retrieved = pixels("kind=retrieved&min=0.7")
    assert min(retrieved[name] for name in ("green", "blue", "cyan")) > 10_000 and retrieved["magenta"] == 0
