"""Why a score is what it is, and which pairs of features the machine has found to matter.

    score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                        (Rendle 2010, eq. 1)

Every term of the double sum is a contribution, in the units of the score: those of the target, or log-odds.
This module knows models, but no estimator.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast._selection import exact_dots, norms_of, rounding_margin
from fmfast.model import FMModel
from fmfast.validation import SparseRows, numeric_array

_BLOCK = 2048  # features; products of two blocks are held at a time
_SHOWN = 10  # lines of a repr


@dataclass(frozen=True, repr=False)
class Explanation:
    """A score, term by term, the largest |contribution| first.

    Attributes
    ----------
    w0 : float
        What every row starts from.
    features : intp ndarray of shape (n_terms, 2)
        Columns of each term; the second is -1 for a linear term.
    contributions : float64 ndarray of shape (n_terms,)
        w_j x_j of a linear term, <v_j, v_l> x_j x_l of a pair.
    names : tuple of str
        A readable name of each term, such as "user=7 x genre=Drama".
    """

    w0: float
    features: NDArray[np.intp]
    contributions: NDArray[np.float64]
    names: tuple[str, ...]

    @property
    def score(self) -> float:
        """The sum of all terms."""
        return float(self.w0 + self.contributions.sum())

    @property
    def linear(self) -> float:
        """The sum of the linear terms."""
        return float(self.contributions[self.features[:, 1] < 0].sum())

    @property
    def pairs(self) -> float:
        """The sum of the pairs."""
        return float(self.contributions[self.features[:, 1] >= 0].sum())

    def rows(self) -> list[dict[str, Any]]:
        """One dict per term, of which `pandas.DataFrame` makes a table; w0 comes first.

        Returns
        -------
        list of dict
            "term" is the name, "contribution" a float, "features" a tuple of columns.
        """
        terms: list[dict[str, Any]] = [{"term": "w0", "contribution": self.w0, "features": ()}]
        for name, value, (j, l_) in zip(self.names, self.contributions, self.features.tolist(), strict=True):
            terms.append(
                {"term": name, "contribution": float(value), "features": (j,) if l_ < 0 else (j, l_)}
            )
        return terms

    def __repr__(self) -> str:
        sums = [("score", self.score), ("  w0", self.w0), ("  linear terms", self.linear)]
        sums += [("  pairs", self.pairs)]
        return "\n".join([_listing(sums), _strongest(self.names, self.contributions)])


@dataclass(frozen=True, repr=False)
class Interactions:
    """Pairs of features, the largest |strength| first.

    Attributes
    ----------
    features : intp ndarray of shape (n_pairs, 2)
        Columns j < l.
    strengths : float64 ndarray of shape (n_pairs,)
        <v_j, v_l> scale_j scale_l: what the pair adds to a score.
    names : tuple of str
        Such as "user=7 x genre=Drama".
    """

    features: NDArray[np.intp]
    strengths: NDArray[np.float64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per pair: "pair" is its name, "strength" a float, "features" a tuple of two columns."""
        return [
            {"pair": name, "strength": float(value), "features": tuple(pair)}
            for name, value, pair in zip(self.names, self.strengths, self.features.tolist(), strict=True)
        ]

    def __repr__(self) -> str:
        return _strongest(self.names, self.strengths)


def explain_row(model: FMModel, row: SparseRows, output: int, sign: float, names: Any) -> Explanation:
    """The score of one output for a single row; `sign` -1 explains minus the score."""
    j = row.indices.astype(np.intp)
    x = row.data.astype(np.float64) if len(row.data) else np.ones(row.nnz)
    parameters = model.table
    scale = sign * model.scale
    linear = scale * parameters.w[output][j] * x
    first, second = np.triu_indices(len(j), 1)
    V = parameters.V[output][j]
    pairs = scale * exact_dots(V, V, first, second) * x[first] * x[second]
    features = np.concatenate(
        [np.column_stack([j, np.full_like(j, -1)]), np.column_stack([j[first], j[second]])]
    )
    contributions = np.concatenate([linear, pairs])
    # Of equal size, the linear terms first, and by their columns.
    order = np.argsort(-np.abs(contributions), kind="stable")
    w0 = sign * (model.scale * parameters.w0[output] + model.offset)
    features = features[order]
    return Explanation(float(w0), features, contributions[order], _names_of(features, names))


def strongest_pairs(
    model: FMModel,
    n: int,
    output: int,
    sign: float,
    groups: tuple[NDArray[np.intp], NDArray[np.intp]],
    scale: NDArray[np.float64] | None,
    fields: NDArray[Any] | None,
    names: Any,
) -> Interactions:
    """The n pairs j != l, one of each group, of the largest |<v_j, v_l>| scale_j scale_l; exact.

    Pairs of one field are left out where `fields` (n_features,) is given. Groups are sorted by the norm of
    their vectors: |<a, b>| <= |a| |b| tells where no better pair can follow. Memory: the vectors of the
    groups and one block of products.
    """
    V = model.table.V[output]
    sides = []
    for j in groups:
        vectors = V[j] if scale is None else V[j] * scale[j, None]
        norms = norms_of(vectors)
        order = np.argsort(-norms, kind="stable")
        sides.append((j[order], vectors[order], norms[order]))
    (a, A, norm_a), (b, B, norm_b) = sides
    in_b, in_a = np.isin(a, b), np.isin(b, a)  # pairs within both groups come twice, as (j, l) and as (l, j)
    best, pairs = np.empty(0), np.empty((0, 2), dtype=np.intp)
    for i, i_end in _blocks(len(a)):
        for k, k_end in _blocks(len(b)):
            least = abs(float(best[-1])) if len(best) == n else 0.0
            if norm_a[i] * norm_b[k] * (1.0 + 1e-12) < least:
                break
            products = np.abs(A[i:i_end] @ B[k:k_end].T)
            j, l_ = a[i:i_end, None], b[None, k:k_end]
            unwanted = (j == l_) | ((j > l_) & in_b[i:i_end, None] & in_a[None, k:k_end])
            if fields is not None:
                unwanted |= fields[j] == fields[l_]
            products[unwanted] = 0.0
            margin = float(rounding_margin(norm_a[i], norm_b[k], A.shape[1], A.dtype))
            if len(best) < n < products.size:
                place = products.size - n
                least = float(np.partition(products, place, axis=None)[place]) - margin
            # What adds nothing to any score is no interaction.
            hits = np.flatnonzero((products >= least - 2 * margin) & (products > 0))
            rows, columns = np.divmod(hits, products.shape[1])
            found = exact_dots(A, B, rows + i, columns + k)
            features = np.sort(np.column_stack([a[rows + i], b[columns + k]]), axis=1)
            best, pairs = _best_pairs(np.concatenate([best, found]), np.concatenate([pairs, features]), n)
    return Interactions(pairs, sign * model.scale * best, _names_of(pairs, names))


def _blocks(n: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(0, n, _BLOCK), n]))


def _best_pairs(
    strengths: NDArray[np.float64], pairs: NDArray[np.intp], n: int
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Largest size first; of equal ones, the pair with the lower columns."""
    best = np.lexsort((pairs[:, 1], pairs[:, 0], -np.abs(strengths)))[:n]
    return strengths[best], pairs[best]


# -- arguments -------------------------------------------------------------------------------------


def check_n(n: Any) -> int:
    if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n is {n!r}, expected a whole number of pairs, 1 or more; give for example 10.")
    return int(n)


def output_of(model: FMModel, class_: Any) -> tuple[int, float]:
    """The output that scores a class, and the sign with which it does."""
    if model.classes is None:
        if class_ is not None:
            raise ValueError(
                f"class_ is {class_!r}, but a regressor has no classes, expected None; leave it out."
            )
        return 0, 1.0
    labels = model.classes.tolist()
    if class_ is None and model.n_outputs == 1:
        return 0, 1.0
    if class_ not in labels:
        raise ValueError(
            f"class_ is {class_!r}, expected one of the classes {labels[:10]!r}, since each has a score of "
            "its own; name the one that is meant."
        )
    if model.n_outputs == 1:  # log-odds of the second class; those of the first are minus that
        return 0, 1.0 if class_ == labels[1] else -1.0
    return labels.index(class_), 1.0


def names_of_model(model: FMModel, feature_names: Any = None) -> Sequence[str] | NDArray[Any] | None:
    """Names of the features: those given, or those that the model or its encoder knows."""
    if feature_names is not None:
        given = list(feature_names)
        if len(given) != model.n_features:
            raise ValueError(
                f"feature_names has {len(given)} names, expected {model.n_features}, one per column; give "
                "those of the rows the model was fitted on."
            )
        return given
    if model.encoder is not None:
        known: list[str] = model.encoder.feature_names_
        return known
    return model.feature_names


def fields_of_model(model: FMModel, fields: Any = None) -> NDArray[Any] | None:
    """(n_features,) field numbers: those given, or those of the encoder."""
    if fields is None:
        return None if model.encoder is None else model.encoder.fields_
    given = numeric_array(fields, "fields")
    if given.shape != (model.n_features,):
        raise ValueError(
            f"fields has shape {given.shape}, expected ({model.n_features},): one field number per column; "
            "give the columns of a field the same number."
        )
    return given


def columns_of(model: FMModel, group: Any) -> NDArray[np.intp]:
    """The columns of a field by its name, or columns given by number."""
    if isinstance(group, str):
        known = [] if model.encoder is None else model.encoder.field_names_.tolist()
        if group not in known:
            raise ValueError(
                f"between names the field {group!r}, expected one of {known!r}; without an encoder, give the "
                "column numbers of the field."
            )
        return np.flatnonzero(model.encoder.fields_ == known.index(group))
    columns = numeric_array(group, "between")
    if columns.ndim != 1 or not len(columns) or columns.dtype.kind not in "iu":
        raise ValueError(
            f"between holds an array of shape {columns.shape} and dtype {columns.dtype}, expected the name "
            "of a field or column numbers; from a mask, make them with np.flatnonzero."
        )
    wrong = (columns < 0) | (columns >= model.n_features)
    if wrong.any():
        raise ValueError(
            f"between has the column {columns[np.argmax(wrong)]}, expected 0 to {model.n_features - 1} for "
            f"the {model.n_features} features; count columns from 0."
        )
    return np.unique(columns).astype(np.intp)


def groups_of(model: FMModel, between: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Both sides of the pairs that `between` asks for."""
    if between is None:
        every = np.arange(model.n_features)
        return every, every
    if isinstance(between, str) or not hasattr(between, "__len__") or len(between) != 2:
        raise ValueError(
            f"between is a {type(between).__name__}, expected a pair of field names or of arrays of column "
            'numbers; give for example ("user", "item").'
        )
    return columns_of(model, between[0]), columns_of(model, between[1])


def check_scale(scale: ArrayLike | None, n_features: int) -> NDArray[np.float64] | None:
    """(n_features,) typical values."""
    if scale is None:
        return None
    values = numeric_array(scale, "scale").astype(np.float64)
    if values.shape != (n_features,) or not np.isfinite(values).all():
        raise ValueError(
            f"scale has shape {values.shape}, expected ({n_features},) finite numbers: a typical value per "
            "column, 1 for one-hot columns; drop NaN and infinity."
        )
    return values


# -- words -----------------------------------------------------------------------------------------


def name_of(feature: int, names: Any) -> str:
    return f"column {feature}" if names is None else str(names[feature])


def _names_of(features: NDArray[np.intp], names: Any) -> tuple[str, ...]:
    return tuple(
        name_of(j, names) + ("" if l_ < 0 else f" x {name_of(l_, names)}") for j, l_ in features.tolist()
    )


def _strongest(names: Sequence[str], values: NDArray[np.float64]) -> str:
    lines = _listing(list(zip(names[:_SHOWN], values[:_SHOWN].tolist(), strict=True)))
    rest = len(names) - _SHOWN
    return f"{lines}\n... and {rest} more" if rest > 0 else lines


def _listing(lines: list[tuple[str, float]]) -> str:
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:{width}}  {value:+.4f}" for name, value in lines)
