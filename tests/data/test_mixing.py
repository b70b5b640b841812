"""mixing: each mode is what the paper's ablation of that name says."""

from collections import Counter
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pairuni.config import UNWEIGHTED, PairingMode, PairSelectionConfig
from pairuni.data.dataset import PairSampler
from pairuni.data.mixing import image_features, mix
from pairuni.errors import InputError
from pairuni.records import read_quadruples
from pairuni.streams import Stream, generator
from pairuni.types import Pair, Quadruple, Side

U, G = Side.UNDERSTANDING, Side.GENERATION


def quad(name: str, side: Side | None) -> Quadruple:
    return Quadruple(name, side, f"{name}.png", f"c{name}", f"q{name}", "A")


PAIRS = [
    Pair("1", "aligned", 1.0, quad("g1", G), quad("g1", G)),
    Pair("2", "aligned", 1.0, quad("u2", U), quad("u2", U)),
    Pair("3", "retrieved", 0.7, quad("g3", G), quad("u3", U)),
    Pair("4", "retrieved", 0.8, quad("g4", G), quad("u4", U)),
    Pair("5", "retrieved", 0.6, quad("g5", G), quad("u5", U)),
]


def plane(quadruples) -> np.ndarray:
    """The angle of g and u numbers n is n * 20 degrees: partners are equal, far numbers differ most."""
    angle = np.radians([20.0 * int(q.id[1:]) for q in quadruples])
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_filters():
    assert mix(PAIRS, "pairs", 0) == mix(PAIRS, "vanilla", 0) == PAIRS
    assert [p.id for p in mix(PAIRS, "aligned_only", 0)] == ["1", "2"]
    assert [p.id for p in mix(PAIRS, "retrieved_only", 0)] == ["3", "4", "5"]


@pytest.mark.parametrize(("mode", "names"), [("from_understanding", "u2 u3 u4 u5"), ("from_generation", "g1 g3 g4 g5")])
def test_quadruples_of_one_source(mode, names):
    mixed = mix(PAIRS, mode, 0)
    assert [p.generate.id for p in mixed] == names.split()
    assert all(p.generate is p.understand and (p.kind, p.similarity) == ("aligned", 1.0) for p in mixed)
    assert len({p.id for p in mixed}) == len(mixed)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_random_pairs_have_no_old_partner(n):
    pairs, seen = PAIRS[:n], set()
    for seed in range(20):
        mixed = mix(pairs, "random_pairs", seed)
        assert [p.generate for p in mixed] == [p.generate for p in pairs]
        assert sorted(p.understand.id for p in mixed) == sorted(p.understand.id for p in pairs)
        assert all(new.understand is not old.understand for new, old in zip(mixed, pairs, strict=True))
        assert mixed == mix(pairs, "random_pairs", seed)
        seen.add(tuple(p.understand.id for p in mixed))
    assert len(seen) > 1 or n == 2


def test_unpaired_halves_are_unlike():
    for seed in range(20):
        mixed = mix(PAIRS, "unpaired", seed, plane)
        assert sorted(p.understand.id for p in mixed) == sorted(p.understand.id for p in PAIRS)
        assert all(new.understand is not old.understand for new, old in zip(mixed, PAIRS, strict=True))
        cosine = [
            float(a @ b)
            for a, b in zip(plane([p.generate for p in mixed]), plane([p.understand for p in mixed]), strict=True)
        ]
        assert np.allclose([p.similarity for p in mixed], np.clip(cosine, 0, 1), atol=1e-5)
    first = generator(0, Stream.UNPAIRED_ORDER).permutation(len(PAIRS))[0]
    unlike = mix(PAIRS, "unpaired", 0, plane)[first]
    angles = [abs(int(p.understand.id[1:]) - int(PAIRS[first].generate.id[1:])) for p in PAIRS]
    assert abs(int(unlike.understand.id[1:]) - int(unlike.generate.id[1:])) == max(angles), "the first one may choose"


def test_random_pairs_are_any_derangement_alike():
    pairs = [Pair(str(n), "retrieved", 0.7, quad(f"g{n}", G), quad(f"u{n}", U)) for n in range(4)]
    counts = Counter(tuple(p.understand.id for p in mix(pairs, "random_pairs", seed)) for seed in range(1800))
    all_of_them = [o for o in permutations(range(4)) if all(n != m for n, m in enumerate(o))]
    assert set(counts) == {tuple(f"u{n}" for n in order) for order in all_of_them} and len(all_of_them) == 9
    assert stats.chisquare([*counts.values()]).pvalue > 1e-3


NUMBER, BATCH, SEEDS = 320, 16, range(10)
MADE = [Pair(str(n), "retrieved", 0.7, quad(f"g{n}", G), quad(f"u{n}", U)) for n in range(NUMBER)]


def positive(quadruples) -> np.ndarray:
    """Features of a quadruple's name, with all cosines between 0 and 1."""
    rows = [np.random.default_rng([ord(q.id[0]), int(q.id[1:])]).random(6) for q in quadruples]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize("epochs", [1, 10])
@pytest.mark.parametrize("mode", ["random_pairs", "unpaired", "vanilla"])
def test_old_partners_meet_in_a_batch_as_often_as_chance_has_it(mode: PairingMode, epochs: int):
    together = 0
    for seed in SEEDS:
        sampler = PairSampler(mix(MADE, mode, seed, positive), BATCH, seed, mode)
        for step in range(epochs * NUMBER // BATCH):
            halves = sampler.batch_at(step)
            names = [{half.quadruple.id[1:] for half in halves[side]} for side in (U, G)]
            together += len(set.intersection(*names))
    # The place of one is given; of the others, the partner's is any (a pair and its partner's new pair are two).
    chance = (2 * BATCH - 1) / (2 * NUMBER - 1) if mode == "vanilla" else (BATCH - 1) / (NUMBER - 1)
    trials = NUMBER * epochs * len(SEEDS)
    low, high = stats.binom.interval(1 - 1e-4, trials, chance)
    assert low <= together <= high, f"{together / trials:.1%} meet, by chance {chance:.1%}"


def test_batches_of_unpaired_halves_are_equally_unlike_over_an_epoch():
    steps, trends = np.arange(NUMBER // BATCH), []
    for seed in SEEDS:
        sampler = PairSampler(mix(MADE, "unpaired", seed, positive), BATCH, seed, "unpaired")
        means = [np.mean([half.similarity for half in sampler.batch_at(int(step))[G]]) for step in steps]
        trends.append(float(np.corrcoef(steps, means)[0, 1]))
    # Without a trend, a correlation of n points has a standard deviation of 1 / sqrt(n - 1).
    assert abs(np.mean(trends)) < 4 / np.sqrt((len(steps) - 1) * len(SEEDS)), f"{trends}"


def test_two_unpaired_halves_change_partners():
    assert [p.understand.id for p in mix(PAIRS[:2], "unpaired", 0, plane)] == ["u2", "g1"]


def test_what_a_mode_cannot_do_is_said():
    with pytest.raises(InputError, match="leaves none of the 2 pairs"):
        mix(PAIRS[:2], "retrieved_only", 0)
    with pytest.raises(InputError, match="leaves none"):
        mix(PAIRS[:1], "from_understanding", 0)
    for mode in ("random_pairs", "unpaired"):
        with pytest.raises(InputError, match="at least two"):
            mix(PAIRS[:1], mode, 0, plane)
    nameless = [Pair("n", "aligned", 1.0, quad("x", None), quad("x", None))]
    with pytest.raises(InputError, match="'n' lacks"):
        mix(nameless, "from_generation", 0)
    with pytest.raises(ValueError, match="features"):
        mix(PAIRS, "unpaired", 0)


def test_modes_without_meaningful_similarity():
    assert {"random_pairs", "unpaired", "vanilla"} == UNWEIGHTED


def test_unpaired_photographs(coco: Path):
    quadruples = read_quadruples(coco / "quadruples.jsonl")[::10]
    pairs = [Pair(str(n), "aligned", 1.0, q, q) for n, q in enumerate(quadruples)]
    mixed = mix(pairs, "unpaired", 0, lambda qs: image_features(qs, coco, PairSelectionConfig()))
    assert np.median([p.similarity for p in mixed]) < 0.2
