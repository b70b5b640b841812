"""The whole page: well-formed, self-contained, escaped, with the numbers of the files; and every error."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from PIL import Image
from report_files import (
    HOSTILE,
    STEPS,
    metric_row,
    random_scores,
    sample_rows,
    write_evaluation,
    write_lines,
    write_png,
    write_run,
)

from pairuni.cli.main import main
from pairuni.errors import InputError
from pairuni.pages.report import write_report

VOID = {"meta", "img", "source", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails on a tag that is closed in the wrong order or never."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], "never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def sources(self) -> list[str]:
        return [value for _, name, value in self.attributes if name in ("src", "srcset", "href", "data", "action")]

    def pngs(self) -> list[Image.Image]:
        data = [uri.split(",")[1] for uri in self.sources() if uri.startswith("data:image/png;base64,")]
        return [Image.open(io.BytesIO(base64.b64decode(part))) for part in data]


def render(*inputs: Path, out: Path, title: str | None = None) -> Page:
    assert write_report(list(inputs), out, title=title) == out
    return Page(out)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the untouched run, rendered once."""
    folder = tmp_path_factory.mktemp("page")
    return write_report([write_run(folder)], folder / "report.html")


@pytest.fixture(scope="module")
def page(out: Path) -> Page:
    return Page(out)


def normal_interval(before: dict[str, float], after: dict[str, float]) -> tuple[str, str, str]:
    d = np.array([100 * (after[id] - before[id]) for id in before])
    half = scipy.stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return tuple(f"{v:+.1f}".replace("-", "−") for v in (d.mean(), d.mean() - half, d.mean() + half))  # type: ignore[return-value]


def test_the_page_of_a_run_has_every_part(page: Page) -> None:
    for heading in ("Before and after", "Training", "Samples at the same prompts", "Pairs"):
        assert heading in page.text
    for fact in ("shapes-janus", "3: 1 aligned, 2 retrieved", "2 min 45 s in steps, 2.75 s per step"):
        assert fact in page.text
    assert f"Steps {STEPS} " in page.text
    assert "unmatched understanding 4,711" in page.text and "0.7022" in page.text
    assert "similarity 0.654" in page.text and "similarity 1.000" in page.text
    assert "Options (config.yaml)" in page.text and "weighting: sqrt" in page.text and '"cpus": 2' in page.text
    assert page.text.count("Numbers of the curves") == 1 and page.tags.count("details") == 3 + 2 * 2
    assert "No image gone.png: no such image" in page.text


def test_paired_differences_and_parts_are_those_of_the_answers(page: Page) -> None:
    before, after = random_scores(1, 0.4), random_scores(1, 0.7)
    mean, low, high = normal_interval(before, after)
    scores = [100 * np.mean(list(s.values())) for s in (before, after)]
    errors = [100 * np.std(list(s.values()), ddof=1) / 40**0.5 for s in (before, after)]
    row = f"shapes_understanding per cent {scores[0]:.1f} ± {errors[0]:.1f} {scores[1]:.1f} ± {errors[1]:.1f}"
    assert f"{row} {mean} [{low}, {high}] paired 40 1 → 1 greedy" in page.text
    part = [{id: v for id, v in s.items() if id.startswith("colour/")} for s in (before, after)]
    mean, low, high = normal_interval(part[0], part[1])
    values = " ".join(f"{100 * np.mean(list(s.values())):.1f}" for s in part)
    assert f"colour {values} {mean} [{low}, {high}] 20" in page.text


def test_samples_of_the_first_and_last_step_stand_side_by_side(page: Page) -> None:
    text = page.text
    # Rewards are 0.125 + step / 100 + rollout: means over the two rollouts of each prompt.
    assert "Step 0, mean reward: r 0.625" in text and "Step 60, mean reward: r 1.225" in text
    assert "Step 10" not in text
    assert text.index(f"B {HOSTILE} 0") < text.index(f"B {HOSTILE} 60")


def test_nothing_is_external_and_nothing_is_executable(page: Page, out: Path) -> None:
    assert page.sources() and all(uri.startswith("data:image/") for uri in page.sources())
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    source = out.read_text(encoding="utf-8")
    assert "@import" not in source and "url(" not in source
    templates = (Path(sys.modules["pairuni.pages.report"].__file__ or "").parent / "templates").glob("*.html")
    assert all(re.search(r"\|\s*safe|autoescape", path.read_text()) is None for path in templates)


def test_hostile_text_is_shown_and_escaped(page: Page, out: Path) -> None:
    source = out.read_text(encoding="utf-8")
    assert "<script" not in source and "&lt;script&gt;" in source
    shown = ("a red circle ", "B ", "caption ", "A ", "tag ", "note ")
    assert all(text + HOSTILE in page.text for text in shown)  # prompt, model's answer, pair's text, tag, notice
    assert ("img", "alt", "<script>.png") in page.attributes  # a file name, which is embedded all the same


def test_file_names_in_samples_cannot_leave_their_folder(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()  # no curves: quicker
    write_png(tmp_path / "secret.png", 9, 31, 31)
    rows = sample_rows(0, 0.0)
    for row in rows:
        if "image" in row:
            row["image"] = '../../../secret.png"><script>'
    write_lines(run_dir / "samples/step_000000/samples.jsonl", rows)
    page = render(run_dir, out=tmp_path / "report.html")
    assert "must be a relative path inside" in page.text and "script" not in page.tags
    assert all(picture.size != (31, 31) for picture in page.pngs())


def test_images_are_embedded_as_they_are_and_large_ones_downscaled(page: Page, out: Path) -> None:
    pictures = page.pngs()
    sizes = [picture.size for picture in pictures]
    assert (192, 256) in sizes and max(max(size) for size in sizes) == 256
    original = np.asarray(Image.open(out.parent / "run/samples/step_000000/00_01.png"))
    assert any(p.size == (24, 24) and np.array_equal(np.asarray(p), original) for p in pictures)


def test_a_lone_surrogate_does_not_stop_the_page(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "environment.json").write_text('{"odd": "x\\ud800y"}', encoding="utf-8")
    assert "x?y" in render(run_dir, out=tmp_path / "report.html").text


def test_the_same_run_gives_the_same_bytes(page: Page, out: Path) -> None:
    again = write_report([out.parent / "run"], out.parent / "again.html")
    assert again.read_bytes() == out.read_bytes()
    titled = render(out.parent / "run/eval_after", out=out.parent / "titled.html", title=f"My {HOSTILE}")
    assert f"My {HOSTILE}" in titled.text and "pairuni: run" in page.text


def test_a_bare_run_renders_with_notes(tmp_path: Path) -> None:
    run = tmp_path / "bare"
    write_lines(run / "metrics.jsonl", [{"step": 1, "grad_norm": None, "seconds/total": 3.0}, {"step": 2}])
    text = render(run, out=tmp_path / "report.html").text
    for note in ("No config.yaml", "No environment.json", "no data.pairs", "No eval.json"):
        assert note in text
    assert re.search(r"Not in metrics.jsonl, or null throughout: .*grad_norm.*seconds/update\.", text)
    assert "3 s in steps" in text


def test_missing_pairs_and_missing_pairing_become_notes(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    (tmp_path / "data/pairing.json").unlink()
    assert "No pairing.json beside the pairs" in render(run_dir, out=tmp_path / "report.html").text
    (tmp_path / "data/pairs.jsonl").unlink()
    assert "pairs.jsonl is not there" in render(run_dir, out=tmp_path / "report.html").text


def test_two_evaluations_with_different_benchmarks(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "x", {"common": random_scores(1, 0.4), "old_one": random_scores(3, 0.5)})
    second = write_evaluation(tmp_path / "y", {"new_one": random_scores(3, 0.5), "common": random_scores(1, 0.6)})
    text = render(first, second, out=tmp_path / "report.html").text
    mean, low, high = normal_interval(random_scores(1, 0.4), random_scores(1, 0.6))
    assert f"{mean} [{low}, {high}] paired" in text
    assert f"Left out, because only {first} has it: old_one." in text
    assert f"Left out, because only {second} has it: new_one." in text


def test_runs_are_compared_with_the_first_input(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    scores = {"shapes_understanding": random_scores(1, 0.9)}
    other = write_evaluation(tmp_path / "other", scores).parent  # the folder of an eval.json will do
    bare = tmp_path / "bare"
    write_lines(bare / "metrics.jsonl", [{"step": 1}])
    text = render(run_dir, other, bare, out=tmp_path / "report.html").text
    mean, low, high = normal_interval(random_scores(1, 0.7), random_scores(1, 0.9))
    compared = text[text.index("Comparison") : text.index("Before and after")]
    assert f"{mean} [{low}, {high}] paired" in compared
    assert "Unit run other" in compared and "Before" not in compared.split("paired")[0], "they are neither"
    assert f"Not in the comparison, because it has no eval.json: {bare}." in text


def test_scores_on_the_common_items_stand_beside_their_difference(tmp_path: Path) -> None:
    old = {f"a/{n}": float(n % 2) for n in range(20)}
    new = {f"a/{n}": 1.0 for n in range(5, 40)}
    first, second = write_evaluation(tmp_path / "x", {"b": old}), write_evaluation(tmp_path / "y", {"b": new})
    text = render(first, second, out=tmp_path / "report.html").text
    assert "on common items 53.3 → 100.0" in text and "+46.7" in text  # 8 of the 15 that both answered


def test_why_there_is_no_interval_is_said(tmp_path: Path) -> None:
    old, new = {f"a/{n}": 0.0 for n in range(9)}, {f"a/{n}": float(n > 0) for n in range(9)}
    paths = [write_evaluation(tmp_path / name, {"b": scores}) for name, scores in (("x", old), ("y", new))]
    assert "+88.9 too few items" in render(*paths, out=tmp_path / "report.html").text


def test_runs_of_one_name_are_told_apart(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / run_dir.name
    shutil.copytree(run_dir, other)
    page = write_report([run_dir, other], tmp_path / "two.html").read_text()
    for name in (f"{run_dir.parent.name}/{run_dir.name}", f"elsewhere/{run_dir.name}"):
        assert f">{name}<" in page


def test_facts_and_counts_are_words_and_numbers(run_dir: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["rewards"] = {"understanding": "choice", "generation": "hps", "options": {}, "weights": {}, "held_out": ""}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    pairing = json.loads((tmp_path / "data/pairing.json").read_text())
    pairing["counts"]["removed"] = {"near copy": 3, "copy of an image": 4}
    (tmp_path / "data/pairing.json").write_text(json.dumps(pairing))
    text = render(run_dir, out=tmp_path / "report.html").text
    assert "Rewards choice (understanding), hps (generation) Pairs per step" in text
    assert "removed: near copy 3" in text and "removed: copy of an image 4" in text
    head = text[: text.index("Options (config.yaml)")]
    assert "{" not in head[head.index("Before and after") :]


def test_one_evaluation_shows_its_scores(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "x", {"wise": {"a/1": 1.0, "a/2": 0.0, "b/3": 0.5}}, unit="0-1")
    page = render(path, out=tmp_path / "report.html")
    assert "wise all 0-1 0.500 ± 0.289 3 1 greedy" in page.text and "b 0.500" in page.text


@pytest.mark.parametrize(
    ("file", "content", "line", "words"),
    [
        ("metrics.jsonl", '{"step": 1}\n{"step": 2', 2, "not valid JSON"),
        ("metrics.jsonl", '{"step": 1}\n\n{"grad_norm": 2}', 3, "step: is missing"),
        ("metrics.jsonl", '{"step": 1, "grad_norm": "high"}', 1, "grad_norm: must be a number"),
        ("eval_before/eval.json", '{\n"benchmarks": {,}}', 2, "not valid JSON"),
        ("eval_before/eval.json", '{"model": "m"}', None, "benchmarks: is missing"),
        ("eval_before/eval.json", '{"benchmarks": {"b": {"unit": "points", "n": 3}}}', None, "benchmarks.b.score"),
        ("eval_before/eval.json", '{"benchmarks": {"../b": {}}}', None, "not a benchmark's name"),
        ("eval_after/answers_shapes_generation.jsonl", '{"id": "1", "score": 1.0}\n[]', 2, "must be a JSON object"),
        ("eval_after/answers_shapes_generation.jsonl", '{"id": "1", "score": "x"}', 1, "score: "),
        ("eval_after/answers_shapes_generation.jsonl", '{"id": "1", "score": 1}\n{"id": "1", "score": 0}', 2, "twice"),
        ("samples/step_000060/samples.jsonl", '{"pair_id": "a0"', 1, "not valid JSON"),
        ("samples/step_000000/samples.jsonl", '{"pair_id": "a0", "side": "both"}', 1, "side: "),
        ("config.yaml", "steps: 1\nmodel: [\n", 3, "not valid YAML"),
        ("config.yaml", "- a list", None, "must be a mapping"),
        ("config.yaml", "data: {pairs: 3}", None, "data.pairs: must be a path"),
        ("environment.json", "{", 1, "not valid JSON"),
        ("../data/pairing.json", '{"counts": [1]}', None, "counts: must be a mapping"),
        ("../data/pairs.jsonl", '{"similarity": 2}', 1, "similarity: must be in"),
    ],
)
def test_broken_files_name_file_and_line(
    run_dir: Path, tmp_path: Path, file: str, content: str, line: int | None, words: str
) -> None:
    (run_dir / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        write_report([run_dir], tmp_path / "report.html")
    assert Path(str(caught.value.file)).resolve() == (run_dir / file).resolve()
    assert caught.value.line == line and words in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_sample_row_without_its_output_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    rows = sample_rows(0, 0.0)
    del rows[2]["image"]
    write_lines(run_dir / "samples/step_000000/samples.jsonl", rows)
    with pytest.raises(InputError, match=r"samples.jsonl:3: image: is missing"):
        write_report([run_dir], tmp_path / "report.html")


def test_inputs_that_are_neither_run_nor_evaluation(run_dir: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"hello": 1}))
    for path, words in ((empty, "neither a run"), (tmp_path / "gone", "no such file"), (other, "not an eval.json")):
        with pytest.raises(InputError, match=words) as caught:
            write_report([path], tmp_path / "report.html")
        assert caught.value.file == path
    with pytest.raises(InputError, match="at least one"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(InputError, match="is a folder"):
        write_report([run_dir], empty)


def test_names_of_a_run_s_checkpoints_lead_to_the_run(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[Path]] = []
    monkeypatch.setattr(
        "pairuni.pages.report.write_report", lambda inputs, out, **options: given.append([*inputs, out]) or out
    )
    model = run_dir / "checkpoints" / "step_000001" / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("best", "latest", "checkpoints", "checkpoints/step_000001", "checkpoints/step_000001/model"):
        assert main(["report", str(run_dir / name)]) == 0
        assert given.pop() == [run_dir, run_dir / "report.html"], name
    evaluation = write_evaluation(model / "eval", {"pope": random_scores(0, 0.5)})
    for path in (evaluation, evaluation.parent, tmp_path / "elsewhere" / "best"):
        assert main(["report", str(path)]) == 0
        assert given.pop()[0] == path


def test_the_module_imports_without_torch_and_without_pyplot() -> None:
    code = "import sys, pairuni.pages.report; print([m for m in ('torch', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_long_run_renders_in_seconds(run_dir: Path, tmp_path: Path) -> None:
    write_lines(run_dir / "metrics.jsonl", [metric_row(step) for step in range(1, 1001)])
    pairs = (tmp_path / "data/pairs.jsonl").read_text().splitlines()
    rows = [json.loads(pairs[n % 2]) | {"id": str(n)} for n in range(400)]
    write_lines(tmp_path / "data/pairs.jsonl", rows)
    began = time.process_time()
    page = render(run_dir, out=tmp_path / "report.html")
    assert time.process_time() - began < 15  # about 2 s; the rest is for a busy machine
    assert "24 of 400 pairs" in page.text and "mean over 51 steps" in page.text
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["steps"] == STEPS
    assert "1,000 of 60" in page.text
