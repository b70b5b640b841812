"""files and runs: nothing half-written, errors that name file and line, metrics that a crash cannot spoil."""

import hashlib
import json
import os

import pytest
import yaml

from pairuni.errors import InputError
from pairuni.files import added_to, atomic_path, file_hash, read_json, read_jsonl, write_json, write_jsonl, write_text
from pairuni.runs import RunDir, comparable, environment


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_an_exception_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text('{"ne')
        raise KeyboardInterrupt
    assert read_json(path) == {"old": 1} and names(tmp_path) == ["a.json"]


def test_an_exception_leaves_no_new_file(tmp_path):
    def rows():
        yield {"a": 1}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert names(tmp_path) == []


def test_the_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("x")
        assert not path.exists() and temporary.parent.parent == path.parent
    assert path.read_text() == "x" and names(path.parent) == ["a.txt"]


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("one", "two"):
        with atomic_path(tmp_path / "step") as temporary:
            (temporary / "state").mkdir(parents=True)
            (temporary / "state" / content).write_text(content)
    assert names(tmp_path / "step" / "state") == ["two"] and names(tmp_path) == ["step"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_are_readable_as_the_umask_says(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        write_text(tmp_path / "a", "x")
        with atomic_path(tmp_path / "b") as temporary:  # as safetensors makes them
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        with atomic_path(tmp_path / "c") as temporary:
            (temporary / "d").mkdir(parents=True)
            os.close(os.open(temporary / "d" / "e", os.O_CREAT | os.O_WRONLY, 0o600))
        with added_to(tmp_path / "f") as temporary:
            os.close(os.open(temporary / "g", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(old)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys("abeg", mode)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {
        mode | (mode >> 2) & 0o111
    }


def test_files_are_added_to_a_folder_whole_or_not_at_all(tmp_path):
    (tmp_path / "kept").write_text("old")
    with pytest.raises(KeyboardInterrupt), added_to(tmp_path) as temporary:
        (temporary / "new").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["kept"]
    with added_to(tmp_path) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "new").write_text("whole")
    assert names(tmp_path) == ["kept", "sub"] and (tmp_path / "sub" / "new").read_text() == "whole"


UNWRITABLE = {
    "NaN": ('{"id": "x", "score": NaN}', "score", "nan"),
    "infinity": ('{"id": "x", "deep": [{"a": 1.0}, {"b": -Infinity}]}', "deep.1.b", "-inf"),
    "no double": ('{"id": "x", "score": 1e999}', "score", "inf"),
    "half a character": ('{"id": "x\\ud800"}', None, "surrogate"),
    "half a key": ('{"\\udfff": 1}', None, "surrogate"),
    "a number of many digits": ('{"n": ' + "9" * 5000 + "}", None, "digits"),
}


@pytest.mark.parametrize(("text", "field", "said"), UNWRITABLE.values(), ids=UNWRITABLE.keys())
def test_what_could_not_be_written_again_is_not_read(tmp_path, text, field, said):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"fine": 1}\n' + text + "\n")
    with pytest.raises(InputError, match=said) as caught:
        list(read_jsonl(path))
    assert (caught.value.line, caught.value.field) == (2, field)
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_json(path)


def test_what_is_read_can_be_written_again(tmp_path):
    text = (
        '{"a": 1, "a": 2, "large": '
        + "9" * 400
        + ', "float": 1e308, "tiny": 1e-999, "pair": "\\ud83d\\ude00", "é": null}'
    )
    (tmp_path / "r").write_text(text + "\n", encoding="utf-8")
    ((_, row),) = read_jsonl(tmp_path / "r")
    write_jsonl(tmp_path / "again", [row])
    assert list(read_jsonl(tmp_path / "again")) == [(1, row)]
    assert row == {"a": 2, "large": int("9" * 400), "float": 1e308, "tiny": 0.0, "pair": "\U0001f600", "é": None}


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "r").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"b": 2}\r\n')
    assert list(read_jsonl(tmp_path / "r")) == [(1, {"a": 1}), (2, {"b": 2})]
    (tmp_path / "j").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "j") == {"a": 1}


def test_faults_of_lines_are_gathered(tmp_path):
    (tmp_path / "r").write_text('{"a": 1}\n{oops\n[1]\n{"b": 2}\n')
    faults = []
    assert list(read_jsonl(tmp_path / "r", faults)) == [(1, {"a": 1}), (4, {"b": 2})]
    assert [fault.line for fault in faults] == [2, 3]


def test_a_place_that_cannot_be_written(tmp_path):
    write_text(tmp_path / "file", "x")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "x")


def test_json_lines_round_trip(tmp_path):
    rows = [{"a": "ü\u2028\n"}, {"b": [1, None, 0.1]}]
    write_jsonl(tmp_path / "r", rows)
    assert list(read_jsonl(tmp_path / "r")) == [(1, rows[0]), (2, rows[1])]


def test_a_cut_off_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "r.jsonl"
    write_jsonl(path, [{"a": 1}, {"b": "long enough"}])
    path.write_text(path.read_text()[:-5])
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert (caught.value.file, caught.value.line) == (path, 2)


@pytest.mark.parametrize("reader", [read_json, lambda path: list(read_jsonl(path))])
def test_unreadable_files(tmp_path, reader):
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    (tmp_path / "list").write_text("[1]")
    for name, message in (("absent", "no such"), ("latin", "UTF-8"), ("list", "object"), (".", "cannot be read")):
        with pytest.raises(InputError, match=message) as caught:
            reader(tmp_path / name)
        assert caught.value.file == tmp_path / name


def test_json_errors_name_the_line(tmp_path):
    (tmp_path / "a").write_text('{\n"a": 1,\n}')
    with pytest.raises(InputError) as caught:
        read_json(tmp_path / "a")
    assert caught.value.line in (2, 3)


def test_file_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert file_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_metrics_are_appended_and_cut(tmp_path):
    run = RunDir(tmp_path)
    for step in range(4):
        run.append_metrics({"step": step, "loss": float("nan") if step == 1 else 0.5, "seconds/total": 1.0})
    assert [row["loss"] for row in run.read_metrics()] == [0.5, None, 0.5, 0.5]
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    with pytest.raises(InputError) as caught:
        run.read_metrics()
    assert caught.value.line == 5
    run.cut_metrics(after=2)
    assert [row["step"] for row in run.read_metrics()] == [0, 1, 2]
    run.cut_metrics(after=-1)
    assert run.metrics.read_text() == ""


def test_cutting_metrics_that_were_never_written(tmp_path):
    RunDir(tmp_path / "new").cut_metrics(after=0)
    assert RunDir(tmp_path / "new").read_metrics() == []


def test_comparable_drops_times_only():
    row = {"step": 1, "seconds/total": 2.0, "tokens_per_second/generation": 3.0, "tokens/generation": 4}
    assert comparable(row) == {"step": 1, "tokens/generation": 4}


def test_latest_checkpoint(tmp_path):
    run = RunDir(tmp_path)
    assert run.latest_checkpoint() is None
    write_text(run.latest, "step_000012\n")
    with pytest.raises(InputError, match="step_000012"):
        run.latest_checkpoint()
    run.checkpoint(12).mkdir()
    assert run.latest_checkpoint() == run.checkpoint(12) == tmp_path / "checkpoints" / "step_000012"
    assert run.samples(7) == tmp_path / "samples" / "step_000007"


def test_config_and_environment_are_plain_data(tmp_path):
    run = RunDir(tmp_path)
    run.write_config({"z": 1, "a": {"b": "ü"}})
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == {"z": 1, "a": {"b": "ü"}}
    found = environment()
    assert json.loads(json.dumps(found)) == found and found["packages"]["numpy"]
