"""Class labels in the header of a model file: JSON and back, with their dtype.

What comes back is what `save` can have written, or a ValueError. This module knows no model.
"""

from __future__ import annotations

import math
import re
import reprlib
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_LABEL_BYTES = 1 << 26  # of the array of class labels: numpy pads each string to the longest
_LABEL_DTYPE = re.compile(r"[<>|](b1|[iu][1248]|f[248]|U[0-9]{1,8}|O)", re.ASCII)
_LABEL_TYPE = {"b": bool, "i": int, "u": int, "f": float, "U": str}


def encode_classes(classes: NDArray[Any]) -> dict[str, Any]:
    labels = [label.item() if isinstance(label, np.generic) else label for label in classes.tolist()]
    encoded = {"dtype": classes.dtype.str, "values": labels}
    try:
        decode_classes(encoded)
    except ValueError as error:
        raise TypeError(
            f"The class labels cannot be saved: {error}; fit with labels that are strings, integers, "
            "booleans or finite floats, all of one type."
        ) from error
    return encoded


def decode_classes(encoded: dict[str, Any]) -> NDArray[Any]:
    """The labels with their dtype; ValueError unless they are sorted, distinct, and of one simple type."""
    name, labels = encoded.get("dtype"), encoded.get("values")
    if not isinstance(name, str) or not _LABEL_DTYPE.fullmatch(name):
        raise ValueError(f"classes have the dtype {reprlib.repr(name)}")
    if not isinstance(labels, list) or len(labels) < 2:
        raise ValueError("there are fewer than two classes")
    dtype = np.dtype(name)
    if len(labels) * dtype.itemsize > _MAX_LABEL_BYTES:
        raise ValueError(f"{len(labels)} classes of dtype {name} take more than {_MAX_LABEL_BYTES} bytes")
    kind = _LABEL_TYPE.get(dtype.kind, type(labels[0]))
    if kind not in _LABEL_TYPE.values() or any(type(label) is not kind for label in labels):
        raise ValueError(f"classes of dtype {name} are {reprlib.repr(labels)}")
    if not all(a < b for a, b in pairwise(labels)):
        raise ValueError(f"classes are not sorted and distinct: {reprlib.repr(labels)}")
    if kind is float and not all(map(math.isfinite, labels)):
        raise ValueError(f"classes are not finite: {reprlib.repr(labels)}")
    with np.errstate(over="ignore"):
        classes = np.array(labels, dtype=dtype)
    if classes.tolist() != labels:
        raise ValueError(f"classes do not fit their dtype {name}: {reprlib.repr(labels)}")
    return classes
