"""What a target is: inputs, and what must hold for every one of them."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEEDS = Path(__file__).parent / "seeds"
MIB = 1 << 20


class Finding(AssertionError):
    """Something that no input may do."""


class Target:
    """A reader of foreign bytes or arrays.

    Attributes
    ----------
    name : str
        Also of its folder of seeds.
    documented : tuple of exception types
        All that it may raise.
    constant, multiple : int
        An input of n bytes may make it allocate constant + multiple * n bytes.
    """

    name = ""
    documented: tuple[type[BaseException], ...] = (ValueError,)
    constant = 2 * MIB
    multiple = 100

    def seeds(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((SEEDS / self.name).iterdir())]

    def new_seeds(self) -> dict[str, bytes]:
        """The corpus as it is made from scratch, by file name."""
        raise NotImplementedError

    def size(self, data: bytes) -> int:
        """How many bytes the reader is given."""
        return len(data)

    def mutate(self, data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
        raise NotImplementedError

    def check(self, data: bytes) -> str | None:
        """Read an input, and whatever can be done with what was read; returns how that ended.

        None if the input is none for this target (then it is not counted). Raises `Finding`, or whatever the
        reader raises that it should not.
        """
        raise NotImplementedError

    def attempt(self, call: Callable[[], Any]) -> tuple[Any, str]:
        """(result, "") or (None, how it was refused); other exceptions pass."""
        try:
            return call(), ""
        except self.documented as error:
            message = str(error)
            require(0 < len(message) < 2000, f"a message of {len(message)} characters")
            return None, f"{type(error).__name__}: {_template(message)}"


def require(condition: Any, what: str) -> None:
    if not condition:
        raise Finding(what)


def _template(message: str) -> str:
    """A message without what differs from input to input."""
    message = re.sub(r"b?'[^']*'|\"[^\"]*\"", "", message)
    if " expected " in message:
        message = message[message.rindex(" expected ") :]
    return re.sub(r"[-+]?[0-9][-+.0-9e]*|\[.*\]|\{.*\}|\(.*\)", "0", message)[:90]


def state_of(estimator: Any) -> tuple[bytes, dict[str, int]]:
    """All bytes of an estimator, and which objects it holds."""
    return pickle.dumps(estimator), {name: id(value) for name, value in vars(estimator).items()}
