"""What the command line says when it is asked for help or for its version, and when a name is nearly right."""

import os
import subprocess
import sys
from dataclasses import is_dataclass

import pytest

from pairuni import config
from pairuni.cli.analyse import PARTS as ANALYSE
from pairuni.cli.export import PARTS as EXPORT
from pairuni.cli.help import COMMON, CONFIGS, TITLES, help_of, options_of
from pairuni.cli.main import COMMANDS, main

EVERY = [[name] for name in COMMANDS] + [["analyse", part] for part in ANALYSE] + [["export", part] for part in EXPORT]


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main([]) == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_every_option_stands_in_a_titled_group_with_its_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help-all"]) == 0
    page = capsys.readouterr().out
    cls, first = CONFIGS[name]
    options = list(options_of(vars(config)[cls]))
    assert len(options) > 3 and "--config FILE" in page
    for option in options:
        assert page.count(f"\n  --{option.name} ") == 1, option.name
        assert f"\n{TITLES[option.group]}:\n" in page
        if option.text:
            assert " ".join(option.text.split())[:40] in " ".join(page.split())
    assert first is None or f"pairuni {name} {first.upper()} " in page
    assert not any(is_dataclass(option.kind) for option in options)


def test_train_shows_the_common_options_and_says_how_to_see_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    page = capsys.readouterr().out
    assert "--optim.lr " in page and "--optim.beta1 " not in page
    assert "`pairuni train --help-all` has all" in page and page.count("\n") < 130
    names = {option.name for option in options_of(config.PlanConfig)}
    assert set(COMMON["train"]) <= names and len(names) > 2 * len(COMMON["train"])
    assert "--optim.beta1 " in help_of("train", config.PlanConfig, None, True)


def test_the_help_of_all_commands_is_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help-all"]) == 0
    page = capsys.readouterr().out
    assert all(f"\n{help_of(name, vars(config)[cls], first, True)}\n" in page for name, (cls, first) in CONFIGS.items())


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_no_help_takes_a_second(words: list[str]) -> None:
    """Of a processor's time: how long one waits depends on what else the machine does."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "pairuni", *words, "--help"], capture_output=True, text=True, check=True
    )
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.0
    assert words[-1] in done.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "unknown command 'trian' (did you mean train?)"),
        ("zzz", "unknown command 'zzz'\n"),
        ("train --lr 1", "--lr: unknown option (did you mean optim.lr?)"),
        ("train --optim.lrr 1", "--optim.lrr: unknown option (did you mean optim.lr?)"),
        ("train --rollout.max-token 1", "(did you mean rollout.max_new_tokens?)"),
        ("train --rollouts=4", "--rollouts: unknown option (did you mean rollout.rollouts?)"),
        ("pair --cluster 4", "(did you mean clusters?)"),
        ("demo --stepz 3", "(did you mean steps?)"),
        ("demo --xyzzy 3", "--xyzzy: unknown option; see `pairuni demo --help`"),
        ("check x.jsonl --image_rot y", "(did you mean image_root?)"),
        ("report x --titel y", "(did you mean title?)"),
        ("analyse pears x", "unknown subcommand 'pears' (did you mean pairs?)"),
        ("export hf x", "unknown subcommand 'hf'"),
        ("analyse pairs x.jsonl --limits 3", "(did you mean limit?)"),
    ],
)
def test_a_name_that_is_nearly_right(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_option_in_a_file(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(
        "output: r\ndata:\n  pairs: p\noptim:\n  learning_rate: 1\n  lrr: 2\n", encoding="utf-8"
    )
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    assert "c.yaml:5" in capsys.readouterr().err
    (tmp_path / "c.yaml").write_text("output: r\ndata:\n  pairs: p\noptim:\n  lrr: 2\n", encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "c.yaml")]) == 2
    err = capsys.readouterr().err
    assert "c.yaml:5" in err and "(did you mean optim.lr?)" in err
