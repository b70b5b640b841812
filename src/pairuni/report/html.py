"""`write_report`: run directories and eval.json files -> one self-contained HTML page, without torch.

    pairuni report RUN|EVAL_JSON ... --out report.html

Reads files only, so that a finished run renders anywhere. The page has no script and refers to nothing outside itself;
all text of the user's (captions, answers, names) is escaped by the templates. Reading is data.py, arithmetic
compare.py, drawing figures.py, pictures gallery.py; here they are put together.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pairuni.errors import InputError
from pairuni.files import write_text
from pairuni.outputs import Outputs
from pairuni.report.compare import Comparison, compare
from pairuni.report.data import Evaluation, Metrics, PairFile, Run, read_input
from pairuni.report.figures import PANELS, Chart, run_charts, similarity_chart
from pairuni.report.gallery import BeforeAfter, PairCard, before_after, pair_cards
from pairuni.types import Side

_DECIMALS = {"per cent": 1, "points": 1}  # of scores by unit; 3 for others


@dataclass(frozen=True)
class _PairsView:
    """The pairs part of a run: what was paired, and some of them."""

    file: PairFile
    counts: list[tuple[str, Any]]
    quantiles: list[tuple[str, Any]]
    notices: list[str]
    chart: Chart | None
    cards: list[PairCard]


@dataclass(frozen=True)
class _RunView:
    """A run as the templates show it."""

    name: str
    facts: list[tuple[str, str]]
    comparison: Comparison | None
    single: Evaluation | None
    charts: list[Chart]
    missing: list[str]
    ends: list[tuple[str, float, float]]
    pairs: _PairsView | None
    samples: BeforeAfter | None
    config: str
    environment: str
    notes: list[str]


def write_report(inputs: Sequence[Path], out: Path, *, title: str | None = None, overwrite: bool = False) -> Path:
    """Writes one HTML page about the inputs and returns its path.

    Each run directory gets a section of its own (before -> after, curves, samples, pairs). Of two or more inputs that
    were evaluated, the first is the baseline and every other one is compared with it.

    Args:
        inputs: run directories, eval.json files, or folders with an eval.json.
        out: the page; written whole or not at all.
        title: of the page (default: the inputs' names).
        overwrite: replace a page that this did not write, or that was edited since.

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
    runs = [_run_view(item) for item in found if isinstance(item, Run)]
    evaluations = [item for item in found if isinstance(item, Evaluation)]
    comparisons, notes = _compare_inputs(found)
    page = templates().get_template("page.html")
    html = page.render(
        title=title or "pairuni: " + ", ".join(_name(path) for path in inputs),
        runs=runs,
        single=evaluations[0] if evaluations and not comparisons else None,
        comparisons=comparisons,
        notes=notes,
    )
    # A lone surrogate, which JSON can spell and UTF-8 cannot, becomes a question mark.
    with replaced:
        write_text(out, html.encode("utf-8", "replace").decode("utf-8"))
    return out


def templates() -> Environment:
    """What pages are made with: everything in them is escaped."""
    environment = Environment(
        loader=PackageLoader("pairuni.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "signed": _signed, "plain": _plain, "title_first": _title_first}
    return environment


def _score(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.{_DECIMALS.get(unit, 3)}f}"


def _signed(value: float, unit: str) -> str:
    return f"{value:+.{_DECIMALS.get(unit, 3)}f}".replace("-", "−")


def _title_first(text: str) -> str:
    return text[:1].upper() + text[1:] if text in ("before", "after") else text


def _plain(value: Any) -> str:
    """A number with four digits, anything else as text."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(path: Path) -> str:
    path = path.resolve()
    return f"{path.parent.name}/{path.name}" if path.is_file() else path.name


def _compare_inputs(found: Sequence[Run | Evaluation]) -> tuple[list[Comparison], list[str]]:
    """Every later evaluated input against the first one; what was skipped, and what has no evaluation to compare."""
    finals = [item.after or item.before if isinstance(item, Run) else item for item in found]
    evaluated = [item for item, final in zip(found, finals, strict=True) if final is not None]
    known = [item for item in finals if item is not None]
    skips = [f"{name} in {e.path}: skipped, {reason}." for e in known for name, reason in e.skipped.items()]
    if len(found) < 2:
        return [], skips
    missing = [item.directory for item in found if isinstance(item, Run) and item.after is None and item.before is None]
    notes = [f"Not in the comparison, because it has no eval.json: {path}." for path in missing]
    names = [_name(item.directory if isinstance(item, Run) else item.path) for item in evaluated]
    rest = zip(known[1:], names[1:], strict=True)
    return [compare(known[0], other, (names[0], name)) for other, name in rest], skips + notes


def _run_view(run: Run) -> _RunView:
    comparison = compare(run.before, run.after) if run.before is not None and run.after is not None else None
    pairs, samples = None if run.pairs is None else _pairs_view(run.pairs), before_after(run.samples)
    charts, missing = ([], []) if run.metrics is None else run_charts(run.metrics, run.scores)
    return _RunView(
        name=_name(run.directory),
        facts=_facts(run),
        comparison=comparison,
        single=None if comparison else run.after or run.before,
        charts=charts,
        missing=missing,
        ends=[] if run.metrics is None else _ends(run.metrics),
        pairs=pairs,
        samples=samples,
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        environment=json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else "",
        notes=run.notes,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """The header: label and text, only of what is known."""
    facts = {"Model": run.setting("model.path"), "Pairs": run.setting("data.pairs")}
    if run.pairs is not None:
        aligned = sum(pair.kind == "aligned" for pair in run.pairs.pairs)
        count = len(run.pairs.pairs)
        facts["Pairs"] = f"{run.pairs.path} ({count:,}: {aligned:,} aligned, {count - aligned:,} retrieved)"
    facts |= {"Rewards": _rewards(run.setting("rewards")), "Pairs per step": run.setting("data.batch")}
    facts |= {"Rollouts per half": run.setting("rollout.rollouts"), "Learning rate": run.setting("optim.lr")}
    facts |= {"Weighting": run.setting("weighting"), "Sides": run.setting("sides")}
    planned = run.setting("steps")
    if run.metrics is not None:
        done = int(run.metrics.steps[-1])
        facts["Steps"] = f"{done:,}" if planned in (None, done) else f"{done:,} of {planned}"
        total = run.metrics.column("seconds/total")
        if total is not None:
            facts["Time"] = f"{_duration(float(np.nansum(total)))} in steps, {np.nanmean(total):.3g} s per step"
    elif planned is not None:
        facts["Steps"] = f"0 of {planned}"
    return [(label, str(value)) for label, value in facts.items() if value is not None]


def _rewards(rewards: Any) -> str | None:
    """The rewards of both sides and those that are only watched, as `name (side)`."""
    if not isinstance(rewards, Mapping):
        return None
    named = {str(side): rewards.get(side) for side in Side} | {"held out": rewards.get("held_out")}
    texts = {side: ", ".join(name) if isinstance(name, list) else name for side, name in named.items()}
    return ", ".join(f"{text} ({side})" for side, text in texts.items() if text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _ends(metrics: Metrics) -> list[tuple[str, float, float]]:
    """Every charted key with its means over the first and the last tenth of the steps."""
    keys = [key for panel in PANELS for key in panel.keys.values()]
    return [(key, *ends) for key in keys if (ends := metrics.ends(key)) is not None]


def _flat(counts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Counts in words; groups of them, one by one after the group's name."""
    for name, value in counts.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            yield from ((f"{words}: {part}", number) for part, number in value.items())
        else:
            yield words, value


def _pairs_view(pairs: PairFile) -> _PairsView:
    pairing, beside = pairs.pairing or {}, pairs.path.parent / "pairing.json"
    counts = pairing.get("counts") or {}
    quantiles = pairing.get("similarity") or {}
    notices = pairing.get("notices") or []
    for name, value, kind in (("counts", counts, dict), ("similarity", quantiles, dict), ("notices", notices, list)):
        if not isinstance(value, kind):
            raise InputError("is of the wrong kind", file=beside, field=name)
    similarities = [pair.similarity for pair in pairs.pairs if pair.kind == "retrieved"]
    return _PairsView(
        file=pairs,
        counts=list(_flat(counts)),
        quantiles=list(quantiles.items()),
        notices=[str(notice) for notice in notices],
        chart=similarity_chart(similarities) if similarities else None,
        cards=pair_cards(pairs),
    )
