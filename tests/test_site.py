"""The documentation site: it builds without a warning, lists every option, and what it links to is there."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pytest

from pairuni import config
from pairuni.cli.help import options_of
from pairuni.config import PlanConfig, SmokeConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("*.md"))


def build(docs: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """As `make docs` does it, into another folder."""
    recipe = re.search(r"^docs:.*\n\t\$\(BIN\)/sphinx-build (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    *settings, _, doctrees, source, site = recipe[1].split()
    assert (doctrees, source, site) == ("build/doctrees", "docs", "build/site") and "-W" in settings
    folders = ["-d", str(output / "doctrees"), *options, str(docs), str(output / "site")]
    command = [sys.executable, "-m", "sphinx", *settings, *folders]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


class Html(HTMLParser):
    """What one page links to, what it loads, its anchors, and the terms of its definition lists with their texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.tags: set[str] = set()
        self.terms: list[tuple[str, str, str]] = []
        """Anchor, term and text."""
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        # <link> names other pages too; rel says which of them a browser fetches.
        fetched = tag != "link" or values.get("rel") in ("stylesheet", "icon", "preload", "prefetch", "shortcut icon")
        if tag != "a" and fetched:
            self.loaded += [values[name] for name in ("src", "href", "srcset", "data") if values.get(name)]
        if tag in ("dt", "dd"):
            self._open = tag
        if tag == "dt":
            self.terms.append(("", "", ""))
        if tag == "span" and self._open == "dt" and "id" in values:
            self.terms[-1] = (values["id"], *self.terms[-1][1:])

    def handle_endtag(self, tag: str) -> None:
        if tag in ("dt", "dl"):
            self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open and self.terms:
            anchor, term, text = self.terms[-1]
            self.terms[-1] = (anchor, term + data, text) if self._open == "dt" else (anchor, term, text + data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("site")
    done = build(DOCS, output)
    assert done.returncode == 0, done.stderr
    return output / "site"


@pytest.fixture(scope="module")
def html(site: Path) -> dict[Path, Html]:
    return {path: Html(path) for path in site.rglob("*.html")}


def test_every_page_is_there_and_in_the_navigation(site: Path, html: dict[Path, Html]) -> None:
    links = html[site / "index.html"].links
    for page in PAGES:
        assert (site / f"{page}.html").is_file()
        assert page == "index" or f"{page}.html" in links, page


def test_no_placeholder_is_taken_for_a_tag(html: dict[Path, Html]) -> None:
    """<side> outside backticks would vanish, here and on GitHub."""
    placeholders = {"think", "answer", "side", "key", "name", "benchmark", "family", "step", "file", "folder"}
    for page in html.values():
        assert not page.tags & placeholders, page.path.name


def test_every_link_leads_somewhere(html: dict[Path, Html]) -> None:
    checked = 0
    for path, page in html.items():
        for link in page.links + page.loaded:
            if link.startswith(("https://", "http://", "data:")):
                continue
            place, _, anchor = link.partition("#")
            target = (path.parent / unquote(place.partition("?")[0])).resolve() if place else path
            assert target.is_file(), f"{path.name}: {link}"
            assert not anchor or target.suffix != ".html" or unquote(anchor) in html[target].ids, f"{path.name}: {link}"
            checked += 1
    assert checked > 1000


def test_nothing_is_loaded_from_elsewhere(site: Path, html: dict[Path, Html]) -> None:
    for page in html.values():
        assert not [link for link in page.loaded if link.startswith(("http:", "https:", "//"))], page.path.name
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8").replace(" ", "")
        assert "@import" not in text and "url(http" not in text and "url(//" not in text, sheet.name
    # Search works from disk: its index is a script, not something that is fetched.
    assert (site / "searchindex.js").read_text(encoding="utf-8").startswith("Search.setIndex(")
    assert "searchindex.js" in html[site / "search.html"].loaded


# ---- the configuration reference --------------------------------------------------------------------------------


def texts_under_fields() -> Iterator[tuple[str, str, str]]:
    """Class, field and the string under it, for every dataclass of pairuni.config, from its source."""
    classes = [each for each in vars(config).values() if isinstance(each, type) and is_dataclass(each)]
    sources = [inspect.getsource(module) for module in {sys.modules[each.__module__] for each in classes}]
    for node in [node for source in sources for node in ast.parse(source).body]:
        if not isinstance(node, ast.ClassDef) or not is_dataclass(vars(config)[node.name]):
            continue
        named = {field.name for field in fields(vars(config)[node.name])}
        for part, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id in named:
                text = following.value if isinstance(following, ast.Expr) else None
                said = text.value if isinstance(text, ast.Constant) else ""
                yield node.name, part.target.id, " ".join(str(said).replace("`", "").split())


def is_group(name: str, field_name: str) -> bool:
    """Shown as a section, not as an entry."""
    return is_dataclass(next(field.type for field in fields(vars(config)[name]) if field.name == field_name))


def test_every_option_stands_with_its_text(site: Path, html: dict[Path, Html]) -> None:
    terms = html[site / "configuration.html"].terms
    shown = {(term.split()[0].rsplit(".", 1)[-1], " ".join(text.split())) for _, term, text in terms}
    there = list(texts_under_fields())
    assert len({name for name, _, _ in there}) > 20 and sum(bool(text) for _, _, text in there) > 200
    for name, field_name, text in there:
        if not is_group(name, field_name):
            assert (field_name, text) in shown, f"{name}.{field_name}"


def commands() -> dict[str, type]:
    """Those whose config is a dataclass, by what its doc string begins with; `pairuni train` with --plan."""
    classes = [each for each in vars(config).values() if isinstance(each, type) and is_dataclass(each)]
    named = [(match[1], each) for each in classes if (match := re.match(r"`pairuni ([\w -]+)`", each.__doc__ or ""))]
    return dict(named) | {"train": PlanConfig}


@pytest.mark.parametrize("command", commands())
def test_the_options_are_those_of_the_command_line(command: str, site: Path, html: dict[Path, Html]) -> None:
    taken = {option.name for option in options_of(commands()[command])}
    start = f"{command.replace(' ', '-')}-"
    entries = {a: t.split()[0] for a, t, _ in html[site / "configuration.html"].terms}
    shown = {name for anchor, name in entries.items() if anchor == start + name.replace(".", "-").replace("_", "-")}
    assert {name for name in shown if ".NAME." not in name} == taken


def test_types_values_and_defaults_are_said(site: Path, html: dict[Path, Html]) -> None:
    said = {anchor: " ".join(term.split()) for anchor, term, _ in html[site / "configuration.html"].terms}
    plan, smoke = PlanConfig(output="x", data=config.DataConfig(pairs="y")), SmokeConfig()
    assert said["train-optim-lr"] == f"optim.lr number; default {plan.optim.lr}"
    assert said["train-output"] == "output text; needed"
    assert said["train-model-cuda-graphs"] == "model.cuda_graphs true or false; default true"
    assert said["train-eval-judge-prompts"] == "eval.judge.prompts text; default: none"
    assert said["smoke-rollout-rollouts"] == f"rollout.rollouts whole number; default {smoke.rollout.rollouts}"
    values = get_args(next(f.type for f in fields(PlanConfig) if f.name == "loss_norm"))
    assert said["train-loss-norm"] == f"loss_norm one of {', '.join(values)}; default {plan.loss_norm}"
    assert "train-rewards-options-name-weights" in said


# ---- what makes the build fail, and links out of docs/ ------------------------------------------------------------


def small_docs(folder: Path, text: str) -> Path:
    (folder / "docs").mkdir()
    (folder / "code.py").touch()
    (folder / "docs" / "index.md").write_text("# Home\n\n## Start\n\n- [Page](page.md): a page\n", encoding="utf-8")
    (folder / "docs" / "page.md").write_text(f"# Page\n\n## A key\n\n{text}\n", encoding="utf-8")
    return folder / "docs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[code](../gone.py)", "no such file in the repository: ../gone.py"),
        ("[page](gone.md)", "gone.md"),
        ("[page](page.md#a-lost-key)", "a-lost-key"),
    ],
)
def test_a_broken_link_fails_the_build(text: str, message: str, tmp_path: Path) -> None:
    done = build(small_docs(tmp_path, text), tmp_path)
    assert done.returncode != 0 and message in done.stderr


def test_links_to_the_repository(tmp_path: Path) -> None:
    text = "[code.py](../code.py) and [the code](../code.py), `[not](../one.py)`, [here](page.md#a-key)"
    docs = small_docs(tmp_path, text)
    assert build(docs, tmp_path).returncode == 0
    page = (tmp_path / "site" / "page.html").read_text(encoding="utf-8")
    assert "the code: <code" in page and page.count(">code.py<") == 2 and "[not](../one.py)" in page
    assert build(docs, tmp_path, "-D", "pairuni_repository=https://example.org/pairuni").returncode == 0
    links = Html(tmp_path / "site" / "page.html").links
    assert links.count("https://example.org/pairuni/blob/main/code.py") == 2
