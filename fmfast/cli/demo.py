"""Learn a chess endgame from the data that ships with fmfast; compare with a linear model, all pairs of
columns, and NumPy; write a model file and a picture of the learning curves."""

from __future__ import annotations

import argparse

from fmfast import demo

SUMMARY = "learn a chess endgame and compare with NumPy; under a minute"
USAGE = "[options]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
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
