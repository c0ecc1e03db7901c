"""Errors and warnings of their own kind; everything else is a ValueError or TypeError.

`NotFittedError` and `DataConversionWarning` have namesakes in scikit-learn. Where scikit-learn is
already imported, its own classes are raised instead (see `fmfast._sklearn`), so that code that
catches those works; where it is not, nothing imports it.
"""

from __future__ import annotations

import os
import sys


class DivergenceError(FloatingPointError):
    """Training produced scores or parameters that are not finite; nothing of it was kept."""


class ModelFileError(ValueError):
    """A file is not a model that this version of fmfast can read, or is damaged."""


class TextFormatError(ValueError):
    """A text file holds something else than rows of numbers in its format.

    Attributes
    ----------
    line, column : int or None
        Where, counted from 1, in bytes; None where the fault has no one place.
    """

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class DatasetError(ValueError):
    """A directory is not a data set that this version of fmfast can read, or is damaged."""


class NotFittedError(ValueError, AttributeError):
    """The estimator has not been fitted yet."""


class DataConversionWarning(UserWarning):
    """Data was converted to another shape; the result is probably, but not surely, what was meant."""


def level_of_caller() -> int:
    """The `stacklevel` with which a warning of the calling function points to the user's own line."""
    package = os.path.dirname(__file__) + os.sep
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level
