"""A command line -> one command's module -> an exit status.

Every module of this folder is one command and has `add_arguments(parser)` and `execute(args)`;
only the one asked for is imported (of two words, `bench compare`, the module is bench_compare).
Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import nmcompile
from nmcompile.errors import NmcompileError

COMMANDS = {
    "compile": "compile a network into an engine (the word may be left out)",
    "run": "restore an image, or every image of a folder, with an engine",
    "eval": "measure PSNR and SSIM of an engine or a network",
    "inspect": "show an engine's or a plan's layers: pattern, cost, kernel and the reason",
    "bench": "time an engine against other runtimes on the dense network",
    "bench compare": "judge by two benchmark files whether an engine became slower",
    "env": "show versions, the processor, and what was built and why not",
}

_OVERVIEW = """\
usage: nmcompile MODEL -o ENGINE [option ...]
       nmcompile COMMAND [option ...]

{about}

commands:
{commands}

options:
  -h, --help  show this, or after a command everything about it
  --version   show the version

examples:
  nmcompile model.pt2 -o engine
  nmcompile weights.pth --arch my.networks:Net?depth=17 --task denoise:25 -o engine
  nmcompile run engine photo.png -o restored.png
  nmcompile eval engine --data images --task sr:2
  nmcompile bench engine --against onnxruntime,openvino"""

_INTERRUPTED = 130
_PIPE_CLOSED = 141


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as every other mistake: in one line, with exit status 1."""

    def error(self, message: str) -> NoReturn:
        raise NmcompileError(f"{message} (see `{self.prog} --help`)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the process's exit status.

    0: done; 1: a mistake that the user can mend, told in one line; 130: interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _run(words)
        sys.stdout.flush()
    except NmcompileError as error:
        _complain(f"nmcompile: error: {error}")
        return 1
    except KeyboardInterrupt:
        _complain("nmcompile: interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter's own last flush from failing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    return status


def parse(words: Sequence[str]) -> tuple[Callable[[argparse.Namespace], int], argparse.Namespace]:
    """A command line -> the function that carries it out, and its arguments.

    Raises:
        NmcompileError: wrong usage.
    """
    command, rest = _command(words)
    module = importlib.import_module(f"nmcompile.cli.{command.replace(' ', '_')}")
    parser = _Parser(
        prog="nmcompile" if command == "compile" else f"nmcompile {command}",
        description=COMMANDS[command],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return module.execute, parser.parse_args(rest)


def _run(words: list[str]) -> int:
    if words[:1] in (["-h"], ["--help"]):
        print(_overview())
        return 0
    if words[:1] == ["--version"]:
        print(f"nmcompile {nmcompile.__version__}")
        return 0
    if not words:
        raise NmcompileError("no network and no command given (see `nmcompile --help`)")
    execute, arguments = parse(words)
    if getattr(arguments, "verbose", False):
        logging.basicConfig(format="%(message)s")
        logging.getLogger("nmcompile").setLevel(logging.INFO)  # not what other packages tell
    return execute(arguments)


def _command(words: Sequence[str]) -> tuple[str, list[str]]:
    # An engine folder that is called compare is given as ./compare.
    if " ".join(words[:2]) in COMMANDS and len(words) > 1:
        return " ".join(words[:2]), list(words[2:])
    first = words[0] if words else ""
    if first in COMMANDS:
        return first, list(words[1:])
    likely = difflib.get_close_matches(first, COMMANDS, n=1)
    if likely and not first.startswith("-") and not Path(first).exists():
        raise NmcompileError(
            f"no file and no command is called {first!r}; did you mean `nmcompile {likely[0]}`?"
        )
    return "compile", list(words)


def _overview() -> str:
    commands = "\n".join(f"  {name:14}{what}" for name, what in COMMANDS.items())
    return _OVERVIEW.format(about=(nmcompile.__doc__ or "").splitlines()[0], commands=commands)


def _complain(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)
