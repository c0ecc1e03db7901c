"""Options that set the parameters of estimators, made from what the estimators say of themselves.

Names and defaults come from the signatures of their constructors, what is valid from `CONSTRAINTS`, the help
from their docstrings: a new parameter is an option by itself.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, get_args

from fmfast.parameters import CONSTRAINTS, BaseEstimator
from fmfast.solvers import SOLVERS

# What takes Python objects, or what a command says in its own way.
_NOT_OPTIONS = {"self", "scoring", "groups", "warm_start", "callbacks", "verbose", "encoder"}

_TYPES: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str}
_METAVARS = {int: "N", float: "X", str: "WORD", list: "A,B,..."}


def add_parameters(parser: Any, cls: type[BaseEstimator], without: type[BaseEstimator] | None = None) -> None:
    """One option for each parameter of a class, but for those that another class has, too.

    What is not given does not become an attribute of the arguments, so that defaults stay with the class.
    """
    described = _descriptions(cls)
    others = set() if without is None else set(parameter_names(without))
    for name, parameter in _parameters(cls).items():
        if name in others:
            continue
        shown = described.get(name, "").replace("%", "%%")
        if parameter.default is not None:
            shown += f" (default: {str(parameter.default).replace('%', '%%')})"
        kind = _kind_of(parameter.annotation)
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        if kind is not bool:
            how = {"type": reader_of(name, kind), "metavar": _METAVARS[kind]}
        parser.add_argument(option_of(name), dest=name, default=argparse.SUPPRESS, help=shown.strip(), **how)


def parameter_names(cls: type[BaseEstimator]) -> list[str]:
    """The parameters that are options."""
    return list(_parameters(cls))


def given_parameters(cls: type[BaseEstimator], args: argparse.Namespace) -> dict[str, Any]:
    """The parameters of a class that stand on the command line."""
    return {name: getattr(args, name) for name in parameter_names(cls) if hasattr(args, name)}


def add_n_jobs(parser: argparse.ArgumentParser) -> None:
    """For commands that do not train."""
    parser.add_argument(
        "--n-jobs", type=reader_of("n_jobs", int), metavar="N", help="threads, -1 for all cores (default: 1)"
    )


def option_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def usage_error(message: str) -> argparse.ArgumentError:
    """For arguments that are fine by themselves, but not together, or not with the data."""
    return argparse.ArgumentError(None, message)


def _parameters(cls: type[BaseEstimator]) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(cls.__init__, eval_str=True)
    return {name: value for name, value in signature.parameters.items() if name not in _NOT_OPTIONS}


def _kind_of(annotation: Any) -> type:
    """Of several types, the one that a command line can hold; `list` for strings separated by commas."""
    alternatives = get_args(annotation) or (annotation,)
    if any(get_args(alternative) == (str,) for alternative in alternatives):
        return list
    return next(kind for kind in (bool, int, float, str) if kind in alternatives)


def reader_of(name: str, kind: type) -> Callable[[str], Any]:
    """From text to a valid value of a parameter."""

    def read(text: str) -> Any:
        try:
            value = text.split(",") if kind is list else _TYPES[kind](text)
        except ValueError:
            value = text
        is_valid, expected = CONSTRAINTS[name]
        if name == "solver":  # the table leaves it to the estimator, which alone knows solvers
            is_valid, expected = SOLVERS.__contains__, f"one of {', '.join(SOLVERS)}"
        if not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text!r}, expected {expected}")
        return value

    return read


def read_count(text: str) -> int:
    """A number >= 1."""
    return int(reader_of("n_iter", int)(text))  # of which the same is expected


def _descriptions(cls: type) -> dict[str, str]:
    """What the numpydoc section "Parameters" says of each; nothing where docstrings are stripped."""
    lines = inspect.cleandoc(cls.__doc__ or "").partition("Parameters\n")[2].splitlines()[1:]
    described: dict[str, str] = {}
    names: Sequence[str] = ()
    for line in lines:
        head = re.match(r"(\w+(?:, \w+)*) : ", line)
        if head:
            names = head.group(1).split(", ")
        elif line.startswith("    "):
            for name in names:
                described[name] = f"{described.get(name, '')} {line.strip()}".strip()
        else:
            break  # the next section
    return described
