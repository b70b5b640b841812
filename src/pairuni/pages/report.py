"""`write_report`: run directories and eval.json files -> one HTML page, without torch.

    pairuni report RUN|EVAL_JSON ... --out report.html

It reads files only, so that a finished run renders anywhere; the page has no script. run_files.py reads,
before_after.py compares, run_charts.py draws curves, sample_cards.py chooses samples; this file puts them together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from pairuni.errors import InputError
from pairuni.outputs import Outputs
from pairuni.pages.before_after import Comparison, Difference, compare
from pairuni.pages.cards import PairCard, pair_card
from pairuni.pages.histogram import SimilarityChart, similarity_chart
from pairuni.pages.page import Table, flat_counts, plain, write_page
from pairuni.pages.run_charts import PANELS, Chart, run_charts
from pairuni.pages.run_files import Entry, Evaluation, PairFile, RunFiles, read_input
from pairuni.pages.sample_cards import RunSamples, run_samples
from pairuni.types import Side

SHOWN_PAIRS = 24
_DECIMALS = {"per cent": 1, "points": 1}  # of scores by unit; 3 for others


@dataclass(frozen=True)
class _ScoresView:
    """The tables of one evaluation, or of two that are compared, with notes below each."""

    about: str
    tables: list[tuple[Table, list[str]]]
    notes: list[str]


@dataclass(frozen=True)
class _PairsView:
    """The pairs that a run was trained on, and some of them as cards."""

    about: str
    notes: list[str]
    chart: SimilarityChart | None
    tables: list[Table]
    cards: list[PairCard]


@dataclass(frozen=True)
class _RunView:
    """A run as the template shows it."""

    name: str
    facts: dict[str, str]
    notes: list[str]
    compared: bool
    scores: _ScoresView | None
    charts: list[Chart]
    missing: list[str]
    ends: Table | None
    samples: RunSamples | None
    pairs: _PairsView | None
    config: str
    environment: str


def write_report(inputs: Sequence[Path], out: Path, *, title: str | None = None, overwrite: bool = False) -> Path:
    """Writes one HTML page about the inputs and returns its path.

    Each run directory gets a section (before -> after, curves, samples, pairs). If two or more inputs were evaluated,
    the first is the baseline and the others are compared with it.

    Args:
        inputs: run directories, eval.json files, or folders with an eval.json.
        out: the page; written whole or not at all.
        title: title of the page (default: the inputs' names).
        overwrite: replace a page that another program wrote or someone edited.

    Raises:
        InputError: there are no inputs, one is neither a run directory nor an eval.json, one of its files is broken,
            or `out` cannot be written or replaced.
    """
    if not inputs:
        raise InputError("give at least one run directory or eval.json")
    if out.is_dir():
        raise InputError("is a folder; name the page's file", file=out)
    replaced = Outputs(out.parent, "report", [escape(out.name)], overwrite)
    found = [read_input(path) for path in inputs]
    comparisons, notes = _compare_inputs(found)
    evaluation = next((item for item in found if isinstance(item, Evaluation)), None)
    values: dict[str, Any] = {
        "title": title or "pairuni: " + ", ".join(_name(path) for path in inputs),
        "runs": [_run_view(item) for item in found if isinstance(item, RunFiles)],
        "single": evaluation and not comparisons and _single(evaluation),
        "comparisons": [_compared(comparison) for comparison in comparisons],
        "notes": notes,
    }
    with replaced:
        write_page(out, "report.html", values)
    return out


def _name(path: Path) -> str:
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _compare_inputs(found: Sequence[RunFiles | Evaluation]) -> tuple[list[Comparison], list[str]]:
    """Compares every evaluated input with the first one; notes name skipped benchmarks and inputs without scores."""
    evaluated: list[tuple[str, Evaluation]] = []
    notes, missing = [], []
    for item in found:
        place = item.directory if isinstance(item, RunFiles) else item.path
        final = item.after or item.before if isinstance(item, RunFiles) else item
        if final is None:
            missing.append(f"Not in the comparison, because it has no eval.json: {place}.")
        else:
            evaluated.append((_name(place), final))
            notes += [f"{name} in {final.path}: skipped, {reason}." for name, reason in final.skipped.items()]
    if len(found) < 2:
        return [], notes
    pairs = [(evaluated[0], other) for other in evaluated[1:]]
    return [compare(old, new, (first, name)) for (first, old), (name, new) in pairs], notes + missing


# ---- scores ---------------------------------------------------------------------------------------------------------


def _single(evaluation: Evaluation) -> _ScoresView:
    rows: list[Sequence[Any]] = []
    for name, entry in evaluation.entries.items():
        rows.append((name, "all", entry.unit, _entry_score(entry), entry.n, entry.unparsed, _rules(entry)))
        rows += [("", part, "", _score(value, entry.unit), "", "", "") for part, value in entry.parts.items()]
    head = ("Benchmark", "Part", "Unit", "Score", "Items", "Unparsed", "Protocol")
    table = Table(rows, head, "Score ± standard error", words=(1, 2, 6))
    return _ScoresView(f"{evaluation.path}, model {evaluation.model}", [(table, [])], [])


def _compared(comparison: Comparison) -> _ScoresView:
    """A table of all common benchmarks, then a table per benchmark with parts."""
    names = tuple(name.capitalize() if name in ("before", "after") else name for name in comparison.names)
    rows, notes, parts = [], [], []
    for row in comparison.rows:
        unit, old, new = row.before.unit, row.before, row.after
        given = row.difference is not None and row.difference.low is not None
        kind = ("paired" if row.difference and row.difference.paired else "unpaired") if given else None
        difference = _difference(row.difference, old.score, new.score, unit)
        unparsed = f"{plain(old.unparsed)} → {plain(new.unparsed)}"
        items = old.n if old.n == new.n else f"{plain(old.n)} → {plain(new.n)}"
        scores = (_entry_score(old), _entry_score(new))
        rows.append((row.name, unit, *scores, difference, kind, items, unparsed, _rules(new)))
        notes += [f"{row.name}: {' '.join(row.notes)}"] if row.notes else []
        cells = []
        for part in row.parts:
            scores = (_score(part.before, unit), _score(part.after, new.unit))
            cells.append((part.name, *scores, _difference(part.difference, part.before, part.after, unit), part.n))
        if cells:
            parts.append((Table(cells, ("Part", *names, "Difference", "Items"), f"{row.name} by part, {unit}"), []))
    head = ("Benchmark", "Unit", *names, "Difference", "Interval", "Items", "Unparsed", "Protocol")
    about = "Difference with its 95 % interval over prompts or images, bold where the interval leaves out 0."
    whole = Table(rows, head, f"Score ± standard error. {about}", words=(1, 5, 8))
    inputs = ((names[0], comparison.before), (names[1], comparison.after))
    about = " ".join(f"{name}: {evaluation.path} ({evaluation.model})." for name, evaluation in inputs)
    return _ScoresView(about, [(whole, notes), *parts] if rows else [], comparison.notes)


def _score(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.{_DECIMALS.get(unit, 3)}f}"


def _signed(value: float, unit: str) -> str:
    return f"{value:+.{_DECIMALS.get(unit, 3)}f}".replace("-", "−")


def _entry_score(entry: Entry) -> str:
    error = (
        ""
        if entry.stderr is None
        else Markup(' <span class="interval">± {}</span>').format(_score(entry.stderr, entry.unit))
    )
    return Markup("{}{}").format(_score(entry.score, entry.unit), error)


def _rules(entry: Entry) -> str:
    judge, split = entry.judge and f"judge {entry.judge}", entry.split and f"{entry.split} items"
    text = ", ".join(filter(None, (entry.protocol or "not stated", judge, split)))
    return Markup("{}, <strong>chosen on these items</strong>").format(text) if entry.chosen else text


def _difference(value: Difference | None, before: float | None, after: float | None, unit: str) -> str | None:
    """The difference with its interval, and its scores if they are not those in the table."""
    if value is None:
        return None
    look = f"{'clear' if value.clear else 'unclear'} {'up' if value.mean > 0 else 'down'}"
    interval = value.why
    if value.low is not None and value.high is not None:
        interval = f"[{_signed(value.low, unit)}, {_signed(value.high, unit)}]"
    text = Markup('<span class="{}">{}</span> <span class="interval">{}</span>')
    cell = text.format(look, _signed(value.mean, unit), interval)
    own = [_score(score, unit) for score in (value.before, value.after)]
    if value.paired and own != [_score(before, unit), _score(after, unit)]:
        cell += Markup(' <span class="interval">on common items {} → {}</span>').format(*own)
    return cell


# ---- a run ----------------------------------------------------------------------------------------------------------


def _run_view(run: RunFiles) -> _RunView:
    scores, evaluation = None, run.after or run.before
    if run.before is not None and run.after is not None:
        scores = _compared(compare(run.before, run.after))
    elif evaluation is not None:
        scores = _single(evaluation)
    charts, missing, ends = [], [], None
    if run.metrics is not None:
        charts, missing = run_charts(run.metrics, run.scores)
        found = {key: run.metrics.ends(key) for panel in PANELS for key in panel.keys.values()}
        rows = [(key, *means) for key, means in found.items() if means is not None]
        caption = "Means over the first and the last tenth of the steps"
        ends = Table(rows, ("Metric", "First tenth", "Last tenth"), caption) if rows else None
    return _RunView(
        name=_name(run.directory),
        facts=_facts(run),
        notes=run.notes,
        compared=run.before is not None and run.after is not None,
        scores=scores,
        charts=charts,
        missing=missing,
        ends=ends,
        samples=run_samples(run.samples),
        pairs=None if run.pairs is None else _pairs_view(run.pairs),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        environment=json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else "",
    )


def _facts(run: RunFiles) -> dict[str, str]:
    """The header of a run, without unknown values."""
    facts = {"Model": run.setting("model.path"), "Pairs": run.setting("data.pairs")}
    if run.pairs is not None:
        aligned = sum(pair.kind == "aligned" for pair in run.pairs.pairs)
        count = len(run.pairs.pairs)
        facts["Pairs"] = f"{run.pairs.path} ({count:,}: {aligned:,} aligned, {count - aligned:,} retrieved)"
    rewards = run.setting("rewards")
    if isinstance(rewards, Mapping):  # of both sides, and held-out ones
        named = {str(side): rewards.get(side) for side in Side} | {"held out": rewards.get("held_out")}
        texts = {side: ", ".join(name) if isinstance(name, list) else name for side, name in named.items()}
        facts["Rewards"] = ", ".join(f"{text} ({side})" for side, text in texts.items() if text) or None
    facts |= {"Pairs per step": run.setting("data.batch"), "Rollouts per half": run.setting("rollout.rollouts")}
    facts |= {"Learning rate": run.setting("optim.lr"), "Weighting": run.setting("weighting")}
    facts["Sides"] = run.setting("sides")
    planned = run.setting("steps")
    if run.metrics is not None:
        done = int(run.metrics.steps[-1])
        facts["Steps"] = f"{done:,}" if planned in (None, done) else f"{done:,} of {planned}"
        total = run.metrics.column("seconds/total")
        if total is not None:
            facts["Time"] = f"{_duration(float(np.nansum(total)))} in steps, {np.nanmean(total):.3g} s per step"
    elif planned is not None:
        facts["Steps"] = f"0 of {planned}"
    return {label: str(value) for label, value in facts.items() if value is not None}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _pairs_view(pairs: PairFile) -> _PairsView:
    record, notes = pairs.pairing, []
    if record is None:
        notes.append("No pairing.json beside the pairs: nothing is known of unmatched images.")
    else:
        if record.pairs_hash and not pairs.fresh:
            notes.append("pairing.json was written with another pairs file: its numbers may not fit.")
        notes += record.notices
    tables = []
    if record is not None and record.counts:
        tables.append(Table(list(flat_counts(record.counts)), caption="Pairing (pairing.json)"))
    if record is not None and record.similarity:
        quantiles = list(record.similarity.items())
        tables.append(Table(quantiles, caption="Quantiles of the similarity of retrieved pairs"))
    similarities = [pair.similarity for pair in pairs.pairs if pair.kind == "retrieved"]
    count = min(SHOWN_PAIRS, len(pairs.pairs))
    chosen = np.linspace(0, len(pairs.pairs) - 1, count).round().astype(int).tolist()
    return _PairsView(
        about=f"{count} of {len(pairs.pairs)} pairs of {pairs.path}, evenly over the file.",
        notes=notes,
        chart=similarity_chart(similarities, record and record.random_pair_cosine),
        tables=tables,
        cards=[pair_card(pairs.pairs[i], pairs.root) for i in chosen],
    )
