"""`write_report`: run directories and eval.json files -> one HTML page, without torch.

    pairuni report RUN|EVAL_JSON ... --out report.html

It reads files only, so that a finished run renders anywhere; the page has no script. run_files.py reads,
before_after.py compares, run_charts.py draws curves; this file chooses pairs and samples and puts all together.
"""

import json
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from pairuni.data.pictures import embed
from pairuni.errors import InputError
from pairuni.outputs import Outputs
from pairuni.pages.before_after import Comparison, Difference, compare
from pairuni.pages.histogram import similarity_chart
from pairuni.pages.page import Output, SampleCard, Table, flat_counts, pair_card, plain, write_page
from pairuni.pages.run_charts import PANELS, run_charts
from pairuni.pages.run_files import Entry, Evaluation, PairFile, RolloutRow, RunFiles, read_input, read_sample_rows
from pairuni.types import Side

SHOWN_PAIRS = 24
SHOWN_PROMPTS = 8
"""Prompts per side."""
SHOWN_ROLLOUTS = 4
"""Rollouts per prompt and step."""
_DECIMALS = {"per cent": 1, "points": 1}  # of scores by unit; 3 for others


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
    places = [item.directory if isinstance(item, RunFiles) else item.path for item in found]
    names = _names(places)
    evaluated: list[tuple[str, Evaluation]] = []
    notes, missing = [], []
    for item, place in zip(found, places, strict=True):
        final = item.after or item.before if isinstance(item, RunFiles) else item
        if final is None:
            missing.append(f"Not in the comparison, because it has no eval.json: {place}.")
        else:
            evaluated.append((names[place], final))
            notes += [f"{name} in {final.path}: skipped, {reason}." for name, reason in final.skipped.items()]
    others = evaluated[1:] if len(found) > 1 else []
    single = next((item for item in found if isinstance(item, Evaluation)), None)
    values: dict[str, Any] = {
        "title": title or "pairuni: " + ", ".join(names[place] for place in places),
        "runs": [_run_view(item, names[item.directory]) for item in found if isinstance(item, RunFiles)],
        "single": single and not others and _single(single),
        "comparisons": [_compared(compare(evaluated[0][1], new, (evaluated[0][0], name))) for name, new in others],
        "notes": notes + (missing if len(found) > 1 else []),
    }
    with replaced:
        write_page(out, "report.html", values)
    return out


def _names(places: Sequence[Path]) -> dict[Path, str]:
    """The name of each place, with as many folders above it as tell it from the others; a file has one at least."""
    parts = {place: place.resolve().parts for place in places}
    names = {}
    for place, own in parts.items():
        length = 2 if place.is_file() else 1
        while any(other != own and other[-length:] == own[-length:] for other in parts.values()):
            length += 1
        names[place] = "/".join(own[-length:])
    return names


# ---- scores ---------------------------------------------------------------------------------------------------------


def _single(evaluation: Evaluation) -> dict[str, Any]:
    rows: list[Sequence[Any]] = []
    for name, entry in evaluation.entries.items():
        rows.append((name, "all", entry.unit, _entry_score(entry), entry.n, entry.unparsed, _rules(entry)))
        rows += [("", part, "", _score(value, entry.unit), "", "", "") for part, value in entry.parts.items()]
    head = ("Benchmark", "Part", "Unit", "Score", "Items", "Unparsed", "Protocol")
    table = Table(rows, head, "Score ± standard error", words=(1, 2, 6))
    return {"about": f"{evaluation.path}, model {evaluation.model}", "tables": [(table, [])], "notes": []}


def _compared(comparison: Comparison) -> dict[str, Any]:
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
    return {"about": about, "tables": [(whole, notes), *parts] if rows else [], "notes": comparison.notes}


def _score(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.{_DECIMALS.get(unit, 3)}f}"


def _signed(value: float, unit: str) -> str:
    return f"{value:+.{_DECIMALS.get(unit, 3)}f}".replace("-", "−")


def _entry_score(entry: Entry) -> str:
    score = _score(entry.score, entry.unit)
    if entry.stderr is None:
        return score
    return Markup('{} <span class="interval">± {}</span>').format(score, _score(entry.stderr, entry.unit))


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


def _run_view(run: RunFiles, name: str) -> dict[str, Any]:
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
    return {
        "name": name,
        "facts": _facts(run),
        "notes": run.notes,
        "compared": run.before is not None and run.after is not None,
        "scores": scores,
        "charts": charts,
        "missing": missing,
        "ends": ends,
        "samples": run.samples and _samples_view(run.samples),
        "pairs": run.pairs and _pairs_view(run.pairs),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        "environment": json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else "",
    }


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
            minutes, seconds = divmod(round(float(np.nansum(total))), 60)
            hours, minutes = divmod(minutes, 60)
            time = f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
            time = time if hours or minutes else f"{seconds} s"
            facts["Time"] = f"{time} in steps, {np.nanmean(total):.3g} s per step"
    elif planned is not None:
        facts["Steps"] = f"0 of {planned}"
    return {label: str(value) for label, value in facts.items() if value is not None}


def _pairs_view(pairs: PairFile) -> dict[str, Any]:
    record, notes, tables = pairs.pairing, [], []
    if record is None:
        notes.append("No pairing.json beside the pairs: nothing is known of unmatched images.")
    else:
        if record.pairs_hash and not pairs.fresh:
            notes.append("pairing.json was written with another pairs file: its numbers may not fit.")
        notes += record.notices
        if record.counts:
            tables.append(Table(list(flat_counts(record.counts)), caption="Pairing (pairing.json)"))
        if record.similarity:
            quantiles = list(record.similarity.items())
            tables.append(Table(quantiles, caption="Quantiles of the similarity of retrieved pairs"))
    similarities = [pair.similarity for pair in pairs.pairs if pair.kind == "retrieved"]
    count = min(SHOWN_PAIRS, len(pairs.pairs))
    chosen = np.linspace(0, len(pairs.pairs) - 1, count).round().astype(int).tolist()
    return {
        "about": f"{count} of {len(pairs.pairs)} pairs of {pairs.path}, evenly over the file.",
        "notes": notes,
        "chart": similarity_chart(similarities, record and record.random_pair_cosine),
        "tables": tables,
        "cards": [pair_card(pairs.pairs[i], pairs.root) for i in chosen],
    }


def _samples_view(folders: Sequence[tuple[int, Path]]) -> dict[str, Any]:
    """Cards of the first and the last sample folder (step, path), for the prompts that both have.

    Raises InputError: a samples.jsonl is missing or broken.
    """
    shown = dict((folders[0], folders[-1]))  # a single entry if only one step was sampled
    rows: dict[int, dict[tuple[str, str, str], list[RolloutRow]]] = {step: {} for step in shown}
    for step, folder in shown.items():
        for row in read_sample_rows(folder):
            rows[step].setdefault((row.side, row.pair_id, row.asked), []).append(row)
    first, last = (rows[step] for step, _ in (folders[0], folders[-1]))
    common = [key for key in first if key in last]
    notes = [f"Only step {folders[0][0]} was sampled."] if len(shown) == 1 else []
    lone = len(first) + len(last) - 2 * len(common)
    if lone:
        notes.append(f"{lone} prompts were sampled at one of the two steps only and are left out.")
    keys = []
    for side in (Side.GENERATION, Side.UNDERSTANDING):
        own = [key for key in common if key[0] == side]
        if len(own) > SHOWN_PROMPTS:
            notes.append(f"{SHOWN_PROMPTS} of {len(own)} {side} prompts are shown.")
        keys += own[:SHOWN_PROMPTS]
    cards = []
    for side, pair_id, asked in keys:
        columns = [_column(step, rows[step][side, pair_id, asked], folder) for step, folder in shown.items()]
        label = "Prompt" if side == Side.GENERATION else "Question"
        cards.append(SampleCard(f"{label}, pair {pair_id}", asked, columns))
    return {"cards": cards, "notes": notes}


def _column(step: int, rows: Sequence[RolloutRow], folder: Path) -> tuple[str, list[Output]]:
    """The first rollouts at a step; the title has the mean of each reward over all rollouts."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row.rewards):
        known = [value for row in rows if (value := row.rewards.get(name)) is not None]
        means[name] = fmean(known) if known else None
    outputs = []
    for row in sorted(rows, key=lambda row: row.rollout)[:SHOWN_ROLLOUTS]:
        picture = None if row.image is None else embed(row.image, folder, row.asked)
        outputs.append(Output(picture, row.text or "", _in_words(row.rewards)))
    return f"Step {step}, mean reward: {_in_words(means)}", outputs


def _in_words(rewards: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in rewards.items())
