"""mixing: each mode is what the paper's ablation of that name says."""

from pathlib import Path

import numpy as np
import pytest

from pairuni.config import MixingConfig
from pairuni.data.mixing import UNWEIGHTED, image_features, mix
from pairuni.errors import InputError
from pairuni.records import Pair, Quadruple, Side, read_quadruples

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
    first = np.random.default_rng(0).permutation(len(PAIRS))[0]
    unlike = mix(PAIRS, "unpaired", 0, plane)[first]
    angles = [abs(int(p.understand.id[1:]) - int(PAIRS[first].generate.id[1:])) for p in PAIRS]
    assert abs(int(unlike.understand.id[1:]) - int(unlike.generate.id[1:])) == max(angles), "the first one may choose"


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


def test_unpaired_photographs(coco: Path, tmp_path):
    quadruples = read_quadruples(coco / "quadruples.jsonl")[::10]
    pairs = [Pair(str(n), "aligned", 1.0, q, q) for n, q in enumerate(quadruples)]
    mixed = mix(pairs, "unpaired", 0, lambda qs: image_features(qs, coco, MixingConfig(), tmp_path))
    assert np.median([p.similarity for p in mixed]) < 0.2
    assert list(tmp_path.iterdir()), "features are cached"
