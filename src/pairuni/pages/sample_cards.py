"""The samples of a run at its fixed prompts, before and after training side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairuni.data.pictures import embed
from pairuni.pages.cards import Output, SampleCard
from pairuni.pages.page import plain
from pairuni.pages.run_files import RolloutRow, read_sample_rows
from pairuni.types import Side

SHOWN_PROMPTS = 8
"""Prompts per side."""
SHOWN_ROLLOUTS = 4
"""Rollouts per prompt and step."""


@dataclass(frozen=True)
class RunSamples:
    """A card per prompt, and notes on the prompts that are left out."""

    cards: list[SampleCard]
    notes: list[str]


def run_samples(folders: Sequence[tuple[int, Path]]) -> RunSamples | None:
    """Cards of the first and the last sample folder (step, path), for the prompts that both have.

    None without folders. Raises InputError: a samples.jsonl is missing or broken.
    """
    if not folders:
        return None
    shown = dict((folders[0], folders[-1]))  # a single entry if only one step was sampled
    rows = {step: _by_prompt(read_sample_rows(folder)) for step, folder in shown.items()}
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
    return RunSamples(cards, notes)


def _by_prompt(rows: Sequence[RolloutRow]) -> dict[tuple[str, str, str], list[RolloutRow]]:
    groups: dict[tuple[str, str, str], list[RolloutRow]] = {}
    for row in rows:
        groups.setdefault((row.side, row.pair_id, row.asked), []).append(row)
    return {key: sorted(group, key=lambda row: row.rollout) for key, group in groups.items()}


def _column(step: int, rows: Sequence[RolloutRow], folder: Path) -> tuple[str, list[Output]]:
    """The first rollouts at a step; the title has the mean of each reward over all rollouts."""
    means: dict[str, float | None] = {}
    for name in dict.fromkeys(name for row in rows for name in row.rewards):
        known = [value for row in rows if (value := row.rewards.get(name)) is not None]
        means[name] = sum(known) / len(known) if known else None
    outputs = []
    for row in rows[:SHOWN_ROLLOUTS]:
        picture = None if row.image is None else embed(row.image, folder, row.asked)
        outputs.append(Output(picture, row.text or "", _in_words(row.rewards)))
    return f"Step {step}, mean reward: {_in_words(means)}", outputs


def _in_words(rewards: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {plain(value)}" for name, value in rewards.items())
