"""pairing: Algorithm 1 against its text, every image at most once, and the whole stage on photographs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairuni.config import PairConfig
from pairuni.data.cleaning import UNREADABLE
from pairuni.data.cluster import medoids
from pairuni.data.pairing import ALONE, CUT, TAKEN, build_pairs, run_pair
from pairuni.errors import InputError
from pairuni.records import read_pairs, read_quadruples
from pairuni.streams import Stream, generator
from pairuni.types import Quadruple, Side

U, G = Side.UNDERSTANDING, Side.GENERATION


def options(**more) -> PairConfig:
    return PairConfig("unused", "unused", **{"extractor": "colour_hog", "clusters": 6, **more})


def planted(seed: int, n: int = 60, groups: int = 10) -> tuple[list[Quadruple], np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 8))
    features = centres[rng.integers(groups, size=n)] + 0.4 * rng.normal(size=(n, 8))
    sides = [G if x < 0.5 else U for x in rng.random(n)]
    rows = [Quadruple(f"q{i}", side, f"{i}.png", f"c{i}", f"q{i}", "A") for i, side in enumerate(sides)]
    return rows, features.astype(np.float32)


def by_hand(quadruples, features, config) -> list[tuple[str, str, str]]:
    """Algorithm 1 in plain loops (clusters aside): (kind, generate id, understand id)."""
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    chosen = medoids(features, min(config.clusters, len(quadruples) // 2), config.seed).tolist()
    result = [("aligned", quadruples[i].id, quadruples[i].id) for i in chosen]
    left = [i for i in range(len(quadruples)) if i not in chosen]
    gen = np.array([i for i in left if quadruples[i].side is G], dtype=int)
    free = [i for i in left if quadruples[i].side is U]
    found = []
    for g in generator(config.seed, Stream.VISITING_ORDER).permutation(gen).tolist():
        near = sorted((-float(unit[g] @ unit[u]), u) for u in free)
        if near and -near[0][0] >= config.similarity_floor:
            found.append((g, near[0][1]))
            free.remove(near[0][1])
    return result + [("retrieved", quadruples[g].id, quadruples[u].id) for g, u in sorted(found)]


@pytest.mark.parametrize("seed", range(5))
def test_equals_algorithm_1_in_plain_loops(seed):
    quadruples, features = planted(seed)
    config = options(seed=seed)
    pairing = build_pairs(quadruples, features, config)
    assert [(p.kind, p.generate.id, p.understand.id) for p in pairing.pairs] == by_hand(quadruples, features, config)
    assert pairing.counts.retrieved > 3


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 30),
    clusters=st.integers(1, 40),
    matching=st.sampled_from(["paper_order", "greedy", "optimal"]),
    copies=st.integers(0, 5),
    max_pairs=st.integers(0, 12),
)
def test_every_image_is_used_at_most_once_and_all_are_counted(seed, n, clusters, matching, copies, max_pairs):
    quadruples, features = planted(seed, n, groups=4)
    contents = [str(i % max(1, n - copies)) for i in range(n)]
    features = features[[int(c) for c in contents]]
    quadruples = [replace(q, image_path=f"{c}.png") for q, c in zip(quadruples, contents, strict=True)]
    config = options(clusters=clusters, matching=matching, seed=seed, max_pairs=max_pairs)
    pairing = build_pairs(quadruples, features, config)
    content_of = {q.id: c for q, c in zip(quadruples, contents, strict=True)}
    used = []
    for pair in pairing.pairs:
        used.append(content_of[pair.generate.id])
        if pair.kind == "aligned":
            assert pair.generate is pair.understand and pair.similarity == 1.0
        else:
            used.append(content_of[pair.understand.id])
            assert (pair.generate.side, pair.understand.side) == (G, U) and 0.6 <= pair.similarity <= 1
    assert len(set(used)) == len(used)
    assert len({p.id for p in pairing.pairs}) == len(pairing.pairs)
    c = pairing.counts
    assert c.inputs == n and c.duplicates == n - len(set(contents)) >= c.duplicates_across_sides
    assert c.clusters == max(1, min(clusters, (n - c.duplicates) // 2))
    if not max_pairs:
        assert c.cut == 0 and c.aligned_understanding + c.aligned_generation == c.clusters - c.empty_clusters
        unmatched = c.unmatched_understanding + c.unmatched_generation
        assert c.aligned_understanding + c.aligned_generation + 2 * c.retrieved + unmatched == n - c.duplicates
    else:
        assert len(pairing.pairs) <= max_pairs
    assert len(pairing.pairs) == c.aligned_understanding + c.aligned_generation + c.retrieved


def test_an_image_on_both_sides_is_one_image():
    rows = [Quadruple(f"{s}{i}", s, f"{i}.png", "c", "q", "A") for s in (U, G) for i in range(4)]
    features = np.tile(np.eye(4, dtype=np.float32), (2, 1))
    pairing = build_pairs(rows, features, options(clusters=1))
    assert (pairing.counts.duplicates, pairing.counts.duplicates_across_sides, pairing.counts.retrieved) == (4, 4, 0)
    apart = [replace(row, image_path=f"{row.id}.png") for row in rows]
    again = build_pairs(apart, features, options(clusters=1))
    assert again.counts.duplicates == 0 and all(p.similarity == 1.0 for p in again.pairs)


def test_max_pairs_keeps_aligned_then_the_most_similar():
    quadruples, features = planted(0)
    everything = build_pairs(quadruples, features, options()).pairs
    some = build_pairs(quadruples, features, options(max_pairs=9))
    assert [p.kind for p in some.pairs] == ["aligned"] * 6 + ["retrieved"] * 3
    best = sorted((p.similarity for p in everything if p.kind == "retrieved"), reverse=True)[:3]
    assert sorted((p.similarity for p in some.pairs[6:]), reverse=True) == best
    assert some.counts.cut == len(everything) - 9
    few = build_pairs(quadruples, features, options(max_pairs=4))
    assert [p.kind for p in few.pairs] == ["aligned"] * 4
    assert {p.generate.id for p in few.pairs} < {p.generate.id for p in everything[:6]}


@pytest.mark.parametrize("max_pairs", [0, 12])
def test_what_is_in_no_pair_is_listed_with_the_reason(max_pairs):
    quadruples, features = planted(2, n=80)
    config = options(max_pairs=max_pairs, similarity_floor=0.8)
    pairing = build_pairs(quadruples, features, config)
    used = {half.id for pair in pairing.pairs for half in (pair.generate, pair.understand)}
    reasons = {q.id: reason for q, reason in pairing.unmatched}
    assert used.isdisjoint(reasons) and used | reasons.keys() == {q.id for q in quadruples}
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    chosen = {quadruples[i].id for i in medoids(features, config.clusters, config.seed)}
    whole = build_pairs(quadruples, features, options(similarity_floor=0.8))
    paired = {half.id for pair in whole.pairs for half in (pair.generate, pair.understand)}
    for i, quadruple in enumerate(quadruples):
        if quadruple.id in reasons:
            others = [j for j, q in enumerate(quadruples) if q.side is not quadruple.side and q.id not in chosen]
            near = max(float(unit[i] @ unit[j]) for j in others) >= 0.8
            wanted = CUT if quadruple.id in paired else TAKEN if near else ALONE
            assert reasons[quadruple.id] == wanted
    assert set(reasons.values()) == {ALONE, TAKEN} | ({CUT} if max_pairs else set())


def test_the_order_of_generation_images_is_seeded_and_recorded():
    quadruples, features = planted(1)
    orders = [build_pairs(quadruples, features, options(clusters=1, seed=s)).generation_order for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    kept = [q.id for q in quadruples if q.side is G]
    assert len(set(orders[0])) == len(orders[0]) and set(orders[0]) <= set(kept)


def test_one_side_alone_has_aligned_pairs_only():
    quadruples, features = planted(0)
    keep = [i for i, q in enumerate(quadruples) if q.side is U]
    pairing = build_pairs([quadruples[i] for i in keep], features[keep], options())
    assert {p.kind for p in pairing.pairs} == {"aligned"} and pairing.counts.aligned_understanding == 6


def test_refuses():
    quadruples, features = planted(0, n=4)
    with pytest.raises(ValueError, match="feature rows"):
        build_pairs(quadruples, features[:3], options())
    with pytest.raises(ValueError, match="needs a side"):
        build_pairs([Quadruple("q", None, "a", "c", "q", "A")], features[:1], options())
    features[2] = 0
    with pytest.raises(ValueError, match="row 2"):
        build_pairs(quadruples, features, options())


def config_for(coco: Path, output: Path, **more) -> PairConfig:
    return PairConfig(
        str(coco / "quadruples.jsonl"), str(output), **{"extractor": "colour_hog", "clusters": 40, **more}
    )


@pytest.fixture(scope="module")
def paired(coco, tmp_path_factory):
    output = tmp_path_factory.mktemp("paired")
    return output, run_pair(config_for(coco, output))


def test_photographs(coco, paired):
    output, summary = paired
    pairs = read_pairs(output / "pairs.jsonl", coco)
    kinds = [p.kind for p in pairs]
    assert kinds.count("aligned") == 40 - summary["counts"]["empty_clusters"] and kinds.count("retrieved") >= 10
    assert all((coco / q.image_path).is_file() for p in pairs for q in (p.generate, p.understand))
    assert all(q.side is not None and q.id for p in pairs for q in (p.generate, p.understand))
    assert json.loads((output / "pairing.json").read_text()) == summary
    assert summary["extractor"].startswith("colour_hog") and summary["options"]["similarity_floor"] == 0.6
    assert 0.6 <= summary["similarity"]["0"] <= summary["similarity"]["1"] <= 1
    assert summary["random_pair_cosine"]["0.95"] < 0.6
    assert {"features", "pairing"} <= set(summary["seconds"]) and summary["peak_rss_mb"] > 10
    assert (output / summary["image_root"]).resolve() == coco.resolve()


def test_reruns_are_byte_identical_and_compute_no_feature_again(coco, paired, tmp_path, monkeypatch):
    output, summary = paired
    first = (output / "pairs.jsonl").read_bytes()
    run_pair(config_for(coco, tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "pairs.jsonl").read_bytes() == first
    monkeypatch.setattr("pairuni.data.features.load_image", None)  # would fail when called
    again = run_pair(config_for(coco, output))
    assert (output / "pairs.jsonl").read_bytes() == first and again["pairs_hash"] == summary["pairs_hash"]
    run_pair(config_for(coco, output, seed=1))
    assert (output / "pairs.jsonl").read_bytes() != first


def small_set(folder: Path, n: int = 6) -> Path:
    rows = []
    for i in range(n):
        pixels = np.random.default_rng(i // 2).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        pixels[0, 0] = i
        Image.fromarray(pixels).save(folder / f"{i}.png")
        side = "generation" if i % 2 else "understanding"
        rows.append(
            {"id": f"q{i}", "side": side, "image_path": f"{i}.png", "prompt": "p", "question": "q", "answer": "A"}
        )
    path = folder / "quadruples.jsonl"
    path.write_text("\n\n".join(json.dumps(r) for r in rows))
    return path


def test_clusters_are_capped_with_a_notice(tmp_path):
    summary = run_pair(config_for(small_set(tmp_path).parent, tmp_path))
    assert summary["counts"]["clusters"] == 3
    assert [n for n in summary["notices"] if "3 instead of 40" in n] and len(summary["notices"]) <= 2


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_a_broken_image_is_left_out_and_counted(tmp_path, content):
    path = small_set(tmp_path)
    whole = run_pair(config_for(tmp_path, tmp_path / "whole", clusters=1))
    (tmp_path / "4.png").unlink()
    if content is not None:
        (tmp_path / "4.png").write_bytes(content)
    summary = run_pair(config_for(tmp_path, tmp_path / "out", clusters=1))
    assert summary["counts"]["removed"] == whole["counts"]["removed"] | {UNREADABLE: 1}
    assert summary["counts"]["inputs"] == whole["counts"]["inputs"] == 6
    removed = [json.loads(line) for line in (tmp_path / "out" / "removed.jsonl").read_text().splitlines()]
    quadruples = read_quadruples(path)
    assert [(row["id"], row["reason"]) for row in removed] == [(quadruples[4].id, UNREADABLE)]
    assert "similarity" not in removed[0] and removed[0]["of"]
    assert any(note.startswith("1 quadruples are left out") for note in summary["notices"])
    pairs = (tmp_path / "out" / "pairs.jsonl").read_text()
    unmatched = (tmp_path / "out" / "unmatched.jsonl").read_text()
    used = {row["id"] for line in pairs.splitlines() for row in halves(json.loads(line))}
    assert used | {json.loads(line)["id"] for line in unmatched.splitlines()} == {q.id for q in quadruples} - {
        quadruples[4].id
    }


def halves(pair: dict) -> tuple[dict, dict]:
    return pair["generate_ann"], pair["understand_ann"]


@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_where_no_image_can_be_read_the_first_and_its_line_are_named(tmp_path, content):
    path = small_set(tmp_path)
    for image in tmp_path.glob("*.png"):
        image.unlink()
        if content is not None:
            image.write_bytes(content)
    with pytest.raises(InputError) as caught:
        run_pair(config_for(tmp_path, tmp_path / "out"))
    assert (caught.value.file, caught.value.line) == (path, 1) and str(tmp_path / "0.png") in str(caught.value)
    assert not (tmp_path / "out" / "pairs.jsonl").exists() and not (tmp_path / "out" / "pairing.json").exists()


def test_an_image_root_apart_from_the_file(tmp_path):
    (tmp_path / "images").mkdir()
    path = small_set(tmp_path / "images")
    path.rename(tmp_path / "quadruples.jsonl")
    run_pair(config_for(tmp_path, tmp_path / "out", image_root=str(tmp_path / "images"), clusters=1))
    pairs = read_pairs(tmp_path / "out" / "pairs.jsonl", tmp_path / "images")
    assert all((tmp_path / "images" / p.generate.image_path).is_file() for p in pairs)
