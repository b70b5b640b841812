"""The command that a user runs: all six published benchmarks, one table, and the comparison of two runs."""

import json
from pathlib import Path

import pytest
from test_mmmu import parquet as mmmu_parquet
from test_tasks import geneval_file, mme_rows, parquet, png, pope_folder, wise_folder

from detector_models import write_detector
from llm_server import Endpoint
from pairuni.cli.main import main

NAMES = "mmmu,mmstar,mme,pope,geneval,wise"
UNITS = {
    "mmmu": "per cent",
    "mmstar": "per cent",
    "mme": "points",
    "pope": "per cent",
    "geneval": "0 to 1",
    "wise": "0 to 1",
}


def test_one_command_prints_one_table_of_both_abilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = write_detector(tmp_path / "models")
    stars = [
        {
            "index": n,
            "question": f"Which {n}?",
            "answer": "A",
            "category": "math",
            "l2_category": "algebra",
            "image": png(n),
        }
        for n in range(4)
    ]
    data = {
        "mmmu": mmmu_parquet(tmp_path / "mmmu" / "val.parquet"),
        "mmstar": parquet(tmp_path / "mmstar" / "val.parquet", stars),
        "mme": parquet(tmp_path / "mme" / "test.parquet", mme_rows()),
        "pope": str(pope_folder(tmp_path / "pope")),
        "geneval": str(geneval_file(tmp_path / "geneval").parent),
        "wise": str(wise_folder(tmp_path / "wise")),
    }
    tables, outs = [], [tmp_path / "before", tmp_path / "after"]
    with Endpoint(say=lambda request: "2\n1\n1") as endpoint:
        for seed, out in enumerate(outs):
            arguments = [
                "--data",
                json.dumps(data),
                "--seed",
                str(seed),
                "--images_per_prompt",
                "1",
                "--output",
                str(out),
            ]
            arguments += ["--detector", str(models / "mask2former"), "--colours", str(models / "clip")]
            arguments += ["--judge.base_url", endpoint.url, "--judge.model", "judge-1", "--device", "cpu"]
            assert main(["eval", "--benchmarks", NAMES, *arguments]) == 0
            tables.append(capsys.readouterr().out)
        endpoint.shutdown()
    for table, out in zip(tables, outs, strict=True):
        lines = [line for line in table.splitlines() if "±" in line]
        assert [line.split()[0] for line in lines] == NAMES.split(",")
        report = json.loads((out / "eval.json").read_text(encoding="utf-8"))
        assert {name: entry["unit"] for name, entry in report["benchmarks"].items()} == UNITS
        for name, entry in report["benchmarks"].items():
            answers = (out / f"answers_{name}.jsonl").read_text(encoding="utf-8").splitlines()
            assert len(answers) == entry["n"] > 1
        assert report["benchmarks"]["wise"]["judge"] == "judge-1" and report["benchmarks"]["wise"]["score"] == 0.85
        assert len(list((out / "images").rglob("*.png"))) == 2 + 6
    page = tmp_path / "compared.html"
    assert main(["report", *(str(out / "eval.json") for out in outs), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert all(name in text for name in NAMES.split(","))
    printed = capsys.readouterr().out
    assert str(page) in printed
