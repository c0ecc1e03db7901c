"""Constructor arguments: how they are stored, and the one table of what they may be.

`BaseEstimator` gives `get_params`, `set_params` and a short `repr` with the contract of
scikit-learn: the constructor stores its arguments unchanged, `fit` checks them.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import reprlib
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import numpy as np

from fmfast._sklearn import estimator_tags


class BaseEstimator:
    """Parameters of an estimator, read from the signature of its constructor."""

    _kind: str  # "regressor", "classifier" or "transformer"

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor arguments by name.

        Parameters
        ----------
        deep : bool, default=True
            Also those of an encoder, as encoder__name.

        Returns
        -------
        dict
        """
        params = {name: getattr(self, name) for name in self._parameter_names()}
        if deep:
            for name, value in list(params.items()):
                if isinstance(value, BaseEstimator):
                    params |= {f"{name}__{inner}": setting for inner, setting in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; they are checked at the next `fit`.

        Parameters
        ----------
        **params
            New values by name; those of an encoder as encoder__name.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For a name that the constructor does not have.
        """
        valid = list(self.get_params())
        for name in params:
            if name not in valid and not ("__" in name and name.partition("__")[0] in params):
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self}, expected one of {', '.join(valid)}; "
                    "correct the name."
                )
        for name, value in sorted(params.items()):  # an encoder before its own parameters
            outer, _, inner = name.partition("__")
            if inner:
                getattr(self, outer).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if repr(value) != repr(defaults[name].default)
        ]
        text = f"{type(self).__name__}({', '.join(changed)})"
        return text if len(text) <= N_CHAR_MAX else text[: N_CHAR_MAX - 3] + "..."

    def __sklearn_tags__(self) -> Any:
        return estimator_tags(self._kind)


Method = TypeVar("Method", bound=Callable[..., Any])


class available_if:
    """Decorator of a method that an estimator has only with some settings, like scikit-learn's namesake.

    `condition` returns None, or a sentence why the method is missing: `hasattr` is then false.
    """

    def __init__(self, condition: Callable[[Any], str | None]) -> None:
        self._condition = condition

    def __call__(self, method: Method) -> Method:
        self._method = method
        functools.update_wrapper(self, method)
        return cast(Method, self)  # to a type checker, the method is always there

    def __get__(self, estimator: Any, owner: type | None = None) -> Any:
        reason = None if estimator is None else self._condition(estimator)
        if reason is not None:
            raise AttributeError(reason)
        return self._method.__get__(estimator, owner)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))


def is_number(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, (bool, np.bool_)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond the range of floats
        return False


def _is_seed(value: Any) -> bool:
    return (
        value is None
        or (_is_integer(value) and 0 <= value < 2**63)
        or isinstance(value, (np.random.Generator, np.random.RandomState))
    )


def _is_callbacks(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(callable(f) for f in value))


def _is_names(value: Any) -> bool:
    return value is None or (
        isinstance(value, (list, tuple))
        and all(isinstance(name, str) for name in value)
        and len(set(value)) == len(value)
    )


def _is_each(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """One valid value for all columns, or a dict of them by column."""

    def is_each(value: Any) -> bool:
        if not isinstance(value, dict):
            return is_valid(value)
        return all(isinstance(name, str) for name in value) and all(map(is_valid, value.values()))

    return is_each


def _is_hash_size(value: Any) -> bool:
    return value is None or (_is_integer(value) and 1 <= value < 2**31)


def _is_one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


_BOOL = (lambda v: isinstance(v, (bool, np.bool_)), "True or False")
_AT_LEAST_0 = (lambda v: is_number(v) and v >= 0, "a finite number >= 0")
_AT_LEAST_0_OR_NONE = (lambda v: v is None or (is_number(v) and v >= 0), "a finite number >= 0, or None")
_POSITIVE_OR_NONE = (lambda v: v is None or (is_number(v) and v > 0), "a finite number > 0, or None")
_COUNT = (lambda v: _is_integer(v) and v >= 1, "an integer >= 1")
_NAMES = (_is_names, "None or a list of distinct column names")

# One line per constructor argument: what makes a value valid, and how to say so.
CONSTRAINTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_factors": (lambda v: _is_integer(v) and 0 <= v <= 65536, "an integer from 0 to 65536"),
    "solver": (lambda v: isinstance(v, str), "the name of a solver"),
    "max_iter": _COUNT,
    "n_iter": _COUNT,
    "n_burn_in": (lambda v: _is_integer(v) and v >= 0, "an integer >= 0"),
    "n_kept_samples": _COUNT,
    "learning_rate": _POSITIVE_OR_NONE,
    "learning_rate_decay": _AT_LEAST_0_OR_NONE,
    "reg_w": _AT_LEAST_0_OR_NONE,
    "reg_V": _AT_LEAST_0_OR_NONE,
    "l1_w": _AT_LEAST_0,
    "init_std": _AT_LEAST_0_OR_NONE,
    "early_stopping": _BOOL,
    "validation_fraction": (lambda v: is_number(v) and 0 < v < 1, "a number between 0 and 1, both excluded"),
    "n_iter_no_change": _COUNT,
    "tol": _AT_LEAST_0,
    "scoring": (lambda v: v == "loss" if isinstance(v, str) else callable(v), '"loss" or a callable'),
    "n_jobs": (
        lambda v: v is None or (_is_integer(v) and v != 0 and v <= 1024),
        "None, a number of threads up to 1024, or a negative one counted from all cores (-1: all)",
    ),
    "random_state": (_is_seed, "None, an integer >= 0, or a numpy Generator or RandomState"),
    "warm_start": _BOOL,
    "callbacks": (_is_callbacks, "None or a list of callables"),
    "verbose": (
        lambda v: isinstance(v, (bool, np.bool_)) or (_is_integer(v) and v >= 0),
        "a bool or an integer >= 0",
    ),
    "dtype": (
        lambda v: v is not None and str(getattr(v, "__name__", v)) in ("float32", "float64"),
        '"float32" or "float64"',
    ),
    "encoder": (
        lambda v: v is None or getattr(v, "_kind", None) == "transformer",
        "None or a FeatureEncoder",
    ),
    # of FMRanker
    "loss": (_is_one_of("warp", "bpr"), '"warp" or "bpr"'),
    "max_trials": (lambda v: _is_integer(v) and 1 <= v <= 100_000, "an integer from 1 to 100000"),
    "popularity_power": _AT_LEAST_0,
    "metric": (_is_one_of("ndcg", "recall"), '"ndcg" or "recall"'),
    "k": _COUNT,
    # of DaskFMRegressor and DaskFMClassifier
    "merges_per_epoch": (lambda v: v is None or (_is_integer(v) and v >= 1), "None or an integer >= 1"),
    # of FeatureEncoder
    "categorical": _NAMES,
    "multi_valued": _NAMES,
    "numeric": _NAMES,
    "remainder": (_is_one_of("by_type", "drop"), '"by_type" or "drop"'),
    "min_count": _COUNT,
    "hash_size": (
        _is_each(_is_hash_size),
        "None, an integer from 1 to 2147483647, or a dict of these by column",
    ),
    "separator": (
        lambda v: v is None or (isinstance(v, str) and v != ""),
        "None or a string that is not empty",
    ),
    "normalize": _BOOL,
    "numeric_encoding": (
        _is_each(_is_one_of("scale", "bin", "passthrough")),
        '"scale", "bin" or "passthrough", or a dict of these by column',
    ),
    "n_bins": (lambda v: _is_integer(v) and 2 <= v <= 65536, "an integer from 2 to 65536"),
}


def check_params(estimator: BaseEstimator) -> None:
    """Raise ValueError for the first constructor argument that is not valid."""
    for name in estimator.get_params(deep=False):
        if name in CONSTRAINTS:  # a derived class may have arguments of its own
            check_param(estimator, name)


def check_param(estimator: BaseEstimator, name: str) -> None:
    """Raise ValueError if one constructor argument is not valid."""
    value = getattr(estimator, name)
    is_valid, expected = CONSTRAINTS[name]
    if not is_valid(value):
        raise ValueError(
            f"The parameter {name} of {type(estimator).__name__} is {reprlib.repr(value)}, "
            f"expected {expected}; set it in the constructor or with set_params({name}=...)."
        )
