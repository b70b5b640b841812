"""`pairuni COMMAND [--config FILE] [--option value ...]`.

Exit codes: 0 done, 1 a check or another process failed, 2 wrong input or a full disk (one message, no traceback),
130 interrupted and saved. Imports without torch.
"""

import errno
import sys
from collections.abc import Callable
from importlib import import_module

import pairuni
from pairuni import config
from pairuni.cli.help import ALL, CONFIGS, asked_for, help_of, nearest
from pairuni.errors import DivergedError, InputError
from pairuni.progress import set_console
from pairuni.train.stop import Interrupted

# name -> (module:function, description). The function takes the remaining arguments and returns the exit code.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("pairuni.cli.commands:demo", "the whole method on the Shapes world: CPU, offline, minutes"),
    "shapes": ("pairuni.cli.commands:shapes", "write Shapes images with understanding.jsonl and generation.jsonl"),
    "complete": ("pairuni.cli.commands:complete", "understanding and generation samples -> quadruples.jsonl"),
    "pair": ("pairuni.cli.commands:pair", "quadruples.jsonl -> pairs.jsonl (features, medoids, retrieval)"),
    "smoke": ("pairuni.cli.smoke:smoke", "run this first with real weights: checks one training step"),
    "train": ("pairuni.cli.commands:train", "pairs.jsonl -> run directory (Pair-GRPO)"),
    "sample": ("pairuni.cli.commands:sample", "try a model: images for a prompt, or answers about an image"),
    "eval": ("pairuni.cli.commands:evaluate", "model -> eval.json, both abilities"),
    "report": ("pairuni.cli.commands:report", "runs and eval.json files -> one self-contained HTML page"),
    "analyse": ("pairuni.cli.analyse:analyse", "a gallery of pairs, gradient agreement, ablations"),
    "export": ("pairuni.cli.export:export", "pairs for the Hub or for other trainers"),
    "check": ("pairuni.cli.check:check", "validate a config, a JSON Lines file, or a run directory"),
    "configs": ("pairuni.cli.configs:configs", "list the shipped configs, or copy them"),
    "tiny": ("pairuni.cli.commands:tiny", "a small Janus with random weights, to test a pipeline"),
    "pretrain": ("pairuni.cli.commands:pretrain", "train the small Shapes Janus from scratch"),
}

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == ALL:
        pages = (help_of(name, vars(config)[cls], first, everything=True) for name, (cls, first) in CONFIGS.items())
        print("\n\n\n".join([_usage(), *pages]))
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"pairuni {pairuni.__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        near = nearest(arguments[0], list(COMMANDS))
        print(f"pairuni: unknown command {arguments[0]!r}{near}\n\n{_usage()}", file=sys.stderr)
        return 2
    module, function = COMMANDS[arguments[0]][0].split(":")
    try:
        page = asked_for(arguments)
        if page is not None:
            print(page)
            return 0
        set_console("bar")
        command: Callable[[list[str]], int] = vars(import_module(module))[function]
        return command(arguments[1:])
    except (InputError, DivergedError, KeyboardInterrupt, Interrupted) as err:
        said, code = str(err) or "interrupted", 2 if isinstance(err, InputError) else 1
        print(f"pairuni {arguments[0]}: {said}", file=sys.stderr)
        return 130 if isinstance(err, KeyboardInterrupt | Interrupted) else code
    except BrokenPipeError:
        return 1
    except OSError as err:
        if err.errno not in _NO_ROOM:
            raise
        where = f" ({err.filename})" if err.filename else ""
        message = f"cannot write any more: {err.strerror}{where}; files finished before are complete"
        print(f"pairuni {arguments[0]}: {message}. Free some space and run the same command again", file=sys.stderr)
        return 2
    except RuntimeError as err:
        if type(err).__name__ != "LostRankError":  # its module needs torch
            raise
        print(f"pairuni {arguments[0]}: {err}", file=sys.stderr)
        return 1


def _usage() -> str:
    lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
    usage = ["usage: pairuni COMMAND [--config FILE] [--option value ...]", ""]
    usage += ["Pair-GRPO for unified vision-language models.", "", *lines, ""]
    return "\n".join(
        [*usage, "`pairuni COMMAND --help` lists a command's options, `pairuni --help-all` those of all commands."]
    )
