"""records: the published format in and out, and every way in which a line can be wrong."""

import json
from pathlib import Path

import pytest

from pairuni.errors import InputError
from pairuni.records import read_pairs, read_quadruples, read_samples, resolve_image
from pairuni.types import Pair, Quadruple, Sample, Side


def half(image: str = "images/a.png", **more) -> dict:
    row = {"image_path": image, "prompt": "a cat", "question": "What? A. cat B. dog", "answer": "A", "tag": "t"}
    return {**row, **more}


def pair(generate: dict | None = None, understand: dict | None = None, **more) -> dict:
    return {
        "similarity": 0.88,
        "generate_ann": generate or half(),
        "understand_ann": understand or half("b.png"),
        **more,
    }


def quadruple(**more) -> dict:
    return {"id": "q1", "side": "generation", **half(), **more}


def lines(folder: Path, *rows: dict | str) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_published_format_without_kind(tmp_path):
    rows = [pair(), pair(half("x.png"), half("x.png"), similarity=0.97)]
    retrieved, aligned = read_pairs(lines(tmp_path, *rows))
    assert (retrieved.kind, retrieved.similarity, retrieved.id) == ("retrieved", 0.88, "1")
    assert (aligned.kind, aligned.similarity, aligned.id) == ("aligned", 1.0, "2")
    assert retrieved.half(Side.GENERATION).image_path == "images/a.png"
    assert retrieved.half(Side.UNDERSTANDING).image_path == "b.png"
    assert retrieved.generate.side is Side.GENERATION and retrieved.understand.side is Side.UNDERSTANDING
    assert aligned.generate.side is None, "the published format does not say which half was original"
    assert retrieved.generate.id != retrieved.understand.id and aligned.generate.id == aligned.understand.id


def test_kind_wins_over_the_paths(tmp_path):
    same = pair(half("x.png"), half("x.png"), kind="retrieved", similarity=1)
    assert read_pairs(lines(tmp_path, same))[0].kind == "retrieved"


def test_unknown_keys_survive_a_round_trip(tmp_path):
    row = pair(
        half(id="g", side="generation", source={"a": [1]}), half("b.png", note="ü"), id="p", kind="retrieved", x=1
    )
    first = read_pairs(lines(tmp_path, row))
    written = first[0].to_json()
    assert written["x"] == 1 and written["generate_ann"]["source"] == {"a": [1]}
    assert written["understand_ann"]["note"] == "ü"
    assert read_pairs(lines(tmp_path, written)) == first
    quad = quadruple(more="kept")
    read = read_quadruples(lines(tmp_path, quad))
    assert read[0].to_json() == quad


def test_a_written_pair_is_the_published_format_plus_kind():
    whole = Quadruple("g1", Side.GENERATION, "a.png", "c", "q", "B")
    row = Pair("a0", "aligned", 1.0, whole, whole).to_json()
    assert set(row) == {"id", "kind", "similarity", "generate_ann", "understand_ann"}
    known = {"id": "g1", "side": "generation", "image_path": "a.png", "prompt": "c", "question": "q", "answer": "B"}
    assert row["generate_ann"] == {**known, "tag": ""}


def test_blank_lines_do_not_shift_line_numbers(tmp_path):
    with pytest.raises(InputError) as caught:
        read_quadruples(lines(tmp_path, quadruple(), "", "   ", quadruple(id="q2", prompt="")))
    assert (caught.value.line, caught.value.field) == (4, "prompt")


def without(row: dict, key: str) -> dict:
    return {k: v for k, v in row.items() if k != key}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (pair(similarity=1.01), "similarity"),
        (pair(similarity=-0.1), "similarity"),
        (pair(similarity="0.5"), "similarity"),
        ('{"similarity": NaN, ' + json.dumps(pair())[len('{"similarity": 0.88, ') :], "similarity"),
        (without(pair(), "similarity"), "similarity"),
        (pair(kind="aligned"), "similarity"),
        (pair(kind="other"), "kind"),
        (pair(id=3), "id"),
        (without(pair(), "generate_ann"), "generate_ann"),
        (pair(generate=without(half(), "question")), "generate_ann.question"),
        (pair(generate=half(prompt=" ")), "generate_ann.prompt"),
        (pair(understand=half(answer=2)), "understand_ann.answer"),
        (pair(understand=half(side="left")), "understand_ann.side"),
        (pair(understand=half("../b.png")), "understand_ann.image_path"),
        (pair(understand=half("a/../../b.png")), "understand_ann.image_path"),
        (pair(generate=half("/etc/passwd")), "generate_ann.image_path"),
        (pair(generate=half("")), "generate_ann.image_path"),
    ],
)
def test_a_wrong_pair_names_file_line_and_field(tmp_path, row, field):
    path = lines(tmp_path, pair(), row)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert (caught.value.file, caught.value.line, caught.value.field) == (path, 2, field)
    assert str(caught.value).startswith(f"{path}:2: {field}: ")


@pytest.mark.parametrize("text", ['{"similarity": 0.5, "gen', "[1, 2]", "nonsense"])
def test_a_line_that_is_no_object(tmp_path, text):
    with pytest.raises(InputError) as caught:
        read_pairs(lines(tmp_path, pair(), text))
    assert caught.value.line == 2


def test_empty_and_missing_files(tmp_path):
    for reader in (read_pairs, read_quadruples):
        with pytest.raises(InputError, match="holds no"):
            reader(lines(tmp_path, ""))
        with pytest.raises(InputError, match="no such file"):
            reader(tmp_path / "absent.jsonl")


def test_an_id_that_occurs_twice(tmp_path):
    with pytest.raises(InputError) as caught:
        read_quadruples(lines(tmp_path, quadruple(), "", quadruple()))
    assert (caught.value.line, caught.value.field) == (3, "id") and "line 1" in str(caught.value)
    with pytest.raises(InputError, match="already"):
        read_pairs(lines(tmp_path, pair(id="2"), pair()))  # a line number that is an id elsewhere


@pytest.mark.parametrize("change", [{"side": "both"}, {"side": None}, {"tag": 1}, {"question": ""}])
def test_a_wrong_quadruple(tmp_path, change):
    with pytest.raises(InputError) as caught:
        read_quadruples(lines(tmp_path, quadruple(**change)))
    assert (caught.value.line, caught.value.field) == (1, next(iter(change)))


def test_samples_of_both_sides(tmp_path):
    generation = read_samples(
        lines(tmp_path, {"id": "g", "image_path": "a.png", "prompt": "p", "w": 1}), Side.GENERATION
    )
    assert generation == [Sample("g", Side.GENERATION, "a.png", prompt="p", extra={"w": 1})]
    row = {"id": "u", "image_path": "a.png", "question": "q", "answer": "A", "tag": "t"}
    read = read_samples(lines(tmp_path, row), Side.UNDERSTANDING)
    assert read == [Sample("u", Side.UNDERSTANDING, "a.png", question="q", answer="A", tag="t")]
    for missing in ("question", "answer"):
        with pytest.raises(InputError) as caught:
            read_samples(lines(tmp_path, without(row, missing)), Side.UNDERSTANDING)
        assert caught.value.field == missing
    with pytest.raises(ValueError, match="prompt"):
        Sample("g", Side.GENERATION, "a.png")


@pytest.mark.parametrize("good", ["a.png", "images/a.png", "a/../b.png", "./a.png", "a b/ü.png"])
def test_paths_inside_the_root(good, tmp_path):
    assert resolve_image(good, tmp_path).resolve().is_relative_to(tmp_path.resolve())


def test_paths_are_checked_against_the_given_root_only(tmp_path):
    assert len(read_pairs(lines(tmp_path, pair()), tmp_path / "elsewhere")) == 1
