"""What the command line says when it is asked for help or for its version."""

import pytest

from pairuni.cli.main import main


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "train" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert main([]) == 2


@pytest.mark.parametrize("command", ["train", "pair", "complete", "eval", "sample", "pretrain", "shapes", "tiny"])
def test_every_command_documents_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--config" in capsys.readouterr().out
