"""What the primary contrasts can detect, by the variance over the ten seeds of version 1 of the random streams.

    python benchmarks/contrasts.py

In version 1 random pairs, least similar halves and vanilla were not what they are called (docs/evidence.md): their
scores say nothing, but how much differences between seeds vary is the best guess that there was before the runs.
"""

import argparse
from pathlib import Path

import numpy as np

from pairuni.lab.ablations.contrasts import detectable, read_contrasts
from pairuni.lab.ablations.results import read_results

FOLDER = Path(__file__).parent / "results" / "ablations"
PLANNED = read_contrasts(FOLDER / "contrasts.yaml")


def differences() -> dict[str, np.ndarray]:
    """By label, per seed the difference of the mean score in version 1."""
    rows = read_results(FOLDER / "results.jsonl") | read_results(FOLDER / "unsound_v1.jsonl")

    def scores_S(arm: str) -> np.ndarray:
        found = [rows[arm, seed, 1].benchmarks for seed in range(PLANNED.seeds)]
        return np.array([np.mean([own[name].score for name in PLANNED.benchmarks]) for own in found])

    return {each.label: scores_S(each.arm) - scores_S(each.minus) for each in PLANNED.contrasts}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    said = {each.label: each.could_detect for each in PLANNED.contrasts}
    for label, values_S in differences().items():
        deviation, found = values_S.std(ddof=1), detectable(values_S)
        print(f"{label}: deviation over seeds {deviation:.3f}, could detect {found:.2f} ({said[label]} said)")


if __name__ == "__main__":
    main()
