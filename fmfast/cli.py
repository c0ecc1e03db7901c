"""The command `fmfast`, also `python -m fmfast`.

Exit codes: 0 done, 1 failed (one line on standard error says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fmfast import __version__, demo

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code; wrong usage exits with 2 by `SystemExit`.
    """
    args = _parser().parse_args(argv)
    try:
        args.command(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away, as in `fmfast demo | head`. Python flushes once more at
        # exit and must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted.")
    except (OSError, ValueError, ArithmeticError, ImportError, MemoryError) as error:
        return _fail(f"{error}" or type(error).__name__)
    return 0


def _fail(message: str) -> int:
    print(f"fmfast: {' '.join(message.split())}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fmfast", description="Factorization machines, fast, on an ordinary CPU."
    )
    parser.add_argument("--version", action="version", version=f"fmfast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="learn a chess endgame and compare with NumPy; under a minute",
        description="Learn a chess endgame from the data that ships with fmfast; compare with a linear "
        "model, all pairs of columns, and NumPy; write a model file and a picture of the learning curves.",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="fmfast_demo",
        help="directory for the files (default: %(default)s)",
    )
    parser.add_argument("--no-picture", action="store_true", help="write no picture (it needs matplotlib)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--numpy-seconds",
        type=_seconds,
        default=25.0,
        metavar="S",
        help="limit for training with per-sample NumPy; one epoch at least (default: %(default)g)",
    )
    parser.set_defaults(command=_demo)


def _demo(args: argparse.Namespace) -> None:
    def say(text: str) -> None:
        if not args.quiet:
            print(text, flush=True)

    demo.run(args.output, picture=not args.no_picture, numpy_seconds=args.numpy_seconds, say=say)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; expected 0 or more")
    return value
