"""Any file gives records or one error with its line; any record comes back from its file as it was."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairuni.errors import InputError
from pairuni.files import write_jsonl
from pairuni.records import read_pairs, read_quadruples, read_samples
from pairuni.types import Pair, Quadruple, Side

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FILLED = TEXT.filter(lambda text: bool(text.strip()))
NAMES = st.from_regex(r"\A[a-z0-9_]{1,8}(/[a-z0-9_]{1,8}){0,2}\.png\Z")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
KEYS = (
    "similarity",
    "kind",
    "generate_ann",
    "understand_ann",
    "id",
    "side",
    "image_path",
    "prompt",
    "question",
    "answer",
)
EXTRA = st.dictionaries(TEXT.filter(lambda key: key not in (*KEYS, "tag")), JSON, max_size=2)


def quadruples(side: Side | None) -> st.SearchStrategy[Quadruple]:
    return st.builds(
        Quadruple, id=FILLED, side=st.just(side), image_path=NAMES, prompt=FILLED, question=FILLED, answer=FILLED,
        tag=TEXT, extra=EXTRA,
    )  # fmt: skip


RETRIEVED = st.builds(
    Pair, id=FILLED, kind=st.just("retrieved"), similarity=st.floats(0, 1), generate=quadruples(Side.GENERATION),
    understand=quadruples(Side.UNDERSTANDING), extra=EXTRA,
)  # fmt: skip


@given(st.lists(RETRIEVED, min_size=1, max_size=4, unique_by=lambda pair: pair.id))
@settings(max_examples=60, deadline=None)
def test_pairs_come_back_as_they_were(pairs: list[Pair]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_jsonl(path, [pair.to_json() for pair in pairs])
        assert read_pairs(path) == pairs


@given(
    st.lists(
        quadruples(Side.GENERATION) | quadruples(Side.UNDERSTANDING), min_size=1, max_size=4, unique_by=lambda q: q.id
    )
)
@settings(max_examples=60, deadline=None)
def test_quadruples_come_back_as_they_were(rows: list[Quadruple]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quadruples.jsonl"
        write_jsonl(path, [row.to_json() for row in rows])
        assert read_quadruples(path) == rows


MANGLED = st.dictionaries(st.sampled_from(KEYS), JSON | NAMES | st.sampled_from(["aligned", "generation"]), max_size=7)
LINES = st.lists(MANGLED.map(json.dumps) | JSON.map(json.dumps) | TEXT.filter(lambda t: "\n" not in t), max_size=3)


@pytest.mark.parametrize("read", [read_pairs, read_quadruples, lambda path: read_samples(path, Side.GENERATION)])
@given(lines=LINES)
@settings(max_examples=150, deadline=None)
def test_any_file_gives_records_or_one_error(read: Any, lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8", newline="")
        try:
            assert len(read(path)) >= 1
        except InputError as err:
            assert str(path) in str(err)


@given(st.binary(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_records_or_one_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.jsonl"
        path.write_bytes(content)
        with pytest.raises(InputError, match=re.escape(str(path))):
            read_pairs(path)
