"""The command `fmfast`, also `python -m fmfast`: one module for each of its commands.

Exit codes: 0 done; 1 failed, and one line on standard error says why; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

from fmfast import __version__
from fmfast.cli import convert, demo, evaluate, info, predict, train

__all__ = ["main"]

_COMMANDS = (train, predict, evaluate, convert, info, demo)
_INTERRUPTED = 130  # as shells say it: 128 + SIGINT


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
    args, unknown = _parser().parse_known_args(argv)
    if unknown:  # by the parser of the command, whose usage is of more help
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output went away, as in `fmfast demo | head`. Python flushes once more at
        # exit and must not fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except argparse.ArgumentError as error:  # options that do not go together, or with the data
        args.parser.error(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted.", _INTERRUPTED, args.debug)
    except (OSError, ValueError, TypeError, ArithmeticError, ImportError, MemoryError) as error:
        return _fail(_message(error), 1, args.debug)
    return 0


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"fmfast: {' '.join(message.split())}", file=sys.stderr)
    return code


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)!r}: {error.strerror}."
    return f"{error}" or type(error).__name__


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"fmfast: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fmfast", description="Factorization machines, fast, on an ordinary CPU.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"fmfast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        _, _, name = command.__name__.rpartition(".")
        own = commands.add_parser(
            name,
            help=command.SUMMARY,
            description=command.__doc__,
            usage=f"fmfast {name} {command.USAGE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_arguments(own)
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        own.set_defaults(run=command.run, parser=own)
    return parser
