"""Pictures of fitted machines and of their predictions, by matplotlib (`pip install "fmfast[plot]"`).

Each function draws into one matplotlib Axes, `ax` or that of a new figure, and returns it. Nothing is shown
or saved; matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import explain, targets
from fmfast.base import Machine
from fmfast.machine import FactorizationMachine
from fmfast.model import FMModel
from fmfast.validation import numeric_array

__all__ = ["calibration", "interactions_heatmap", "intervals", "learning_curves", "vectors_2d"]

_LARGEST_HEATMAP = 200  # features per side: beyond, cells are smaller than what a screen shows
_NAMED_TICKS = 40
_COLOURS = tuple(f"C{i}" for i in range(10))


def learning_curves(*runs: Any, labels: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Training loss (dashed) and validation loss (solid) by epoch, or by iteration of a Bayesian machine.

    Parameters
    ----------
    *runs : fitted machines, or the `history_` of some
        There is a validation loss with `eval_set` or early stopping. With a callable `scoring`, minus the
        validation score is drawn in its place.
    labels : sequence of str, default=None
        A name per run.
    ax : matplotlib Axes, default=None
        Where to draw; None: in a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError
        For other runs, or labels that are not one per run.
    """
    histories = [_history_of(run) for run in runs]
    if not runs or (labels is not None and len(labels) != len(runs)):
        n_labels = "no labels" if labels is None else f"{len(labels)} labels"
        raise ValueError(
            f"learning_curves got {len(runs)} runs and {n_labels}, expected one run or more and as many "
            "labels; give them one by one."
        )
    ax = _axes(ax)
    for i, history in enumerate(histories):
        label, colour = labels[i] if labels is not None else f"run {i + 1}", _COLOURS[i % len(_COLOURS)]
        epochs = np.arange(1, len(history) + 1)
        losses = [record["loss"] for record in history]
        ax.plot(epochs, losses, "--", color=colour, label=f"{label}, training")
        validation = [_validation_loss(record) for record in history]
        if not np.isnan(validation).all():
            ax.plot(epochs, validation, color=colour, label=f"{label}, validation")
    bayesian = all("iteration" in history[0] for history in histories)
    ax.set(xlabel="iteration" if bayesian else "epoch", ylabel="loss")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return ax


def interactions_heatmap(
    est: FactorizationMachine,
    *,
    between: tuple[Any, Any] | None = None,
    fields: ArrayLike | None = None,
    field_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    class_: Any = None,
    ax: Any = None,
) -> Any:
    """How strongly fields interact; or, between two fields, what each pair of features adds to the score.

    By field, a cell is the root mean square of <v_j, v_l> over the pairs of one feature of each field. Pairs
    within a field are left out: one-hot features of one field never meet. It needs no pair one by one:

        sum_{j in f, l in g} <v_j, v_l>^2 = trace(G_f G_g),   G_f = V_f^T V_f

    Parameters
    ----------
    est : fitted FMRegressor or FMClassifier
    between : pair or None, default=None
        The names of two fields of the encoder, or two arrays of column numbers, of at most 200 features each:
        draw <v_j, v_l> itself. None: all fields.
    fields : array-like of int of shape (n_features,) or None, default=None
        Field number of each feature. None: those of the encoder.
    field_names : sequence of str or None, default=None
        Names of the fields, in ascending order of their numbers. None: those of the encoder.
    feature_names, class_
        As for `explain` of the machine.
    ax : matplotlib Axes, default=None
        Where to draw; None: in a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError
        For arguments that do not fit, or where no fields are known.
    """
    model = _model_of(est, "interactions_heatmap")
    output, sign = explain.output_of(model, class_)
    if between is None:
        numbers, labels = _fields_of(model, fields, field_names)
        values, x_labels, y_labels = _field_strengths(model, output, numbers), labels, labels
        colours = {"cmap": "Blues", "vmin": 0.0}
        title = "root mean square of <v_j, v_l>"
    else:
        rows, columns = explain.groups_of(model, between)
        if max(len(rows), len(columns)) > _LARGEST_HEATMAP:
            raise ValueError(
                f"between has groups of {len(rows)} and {len(columns)} features, expected at most "
                f"{_LARGEST_HEATMAP} each, which a picture can show; use top_interactions."
            )
        names = explain.names_of_model(model, feature_names)
        V = model.table.V[output].astype(np.float64)
        values = sign * model.scale * (V[rows] @ V[columns].T)
        x_labels, y_labels = ([explain.name_of(j, names) for j in part] for part in (columns, rows))
        largest = float(np.abs(values).max()) or 1.0
        colours = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}  # white is 0
        title = "<v_j, v_l>: what a pair adds to the score"
    ax = _axes(ax)
    image = ax.imshow(values, aspect="auto", **colours)
    ax.figure.colorbar(image, ax=ax)
    _name_ticks(ax.xaxis, x_labels, rotation=90)
    _name_ticks(ax.yaxis, y_labels, rotation=0)
    ax.set_title(title)
    return ax


def vectors_2d(
    est: FactorizationMachine,
    *,
    fields: ArrayLike | None = None,
    field_names: Sequence[str] | None = None,
    feature_names: Sequence[str] | None = None,
    class_: Any = None,
    ax: Any = None,
) -> Any:
    """The vectors v_j in the two directions in which they are longest, coloured by field.

    Two features whose vectors point the same way raise the score together, opposite ones lower it. The
    projection is that of the singular value decomposition of V, not centred, since inner products are what
    counts; the axes say which part of |V|^2 they hold.

    Parameters
    ----------
    est : fitted FMRegressor or FMClassifier
        With at least one factor.
    fields, field_names
        As for `interactions_heatmap`; without fields, all features have one colour.
    feature_names, class_
        As for `explain` of the machine. Up to 40 features are named in the picture.
    ax : matplotlib Axes, default=None
        Where to draw; None: in a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError, TypeError
        For arguments that do not fit, or a machine without factors.
    """
    model = _model_of(est, "vectors_2d")
    if not model.n_factors:
        raise ValueError(
            "vectors_2d got a machine with n_factors=0, which has no vectors, expected 1 or more; fit one."
        )
    output, _ = explain.output_of(model, class_)
    V = model.table.V[output].astype(np.float64) * np.sqrt(model.scale)
    # The right singular vectors are the eigenvectors of V^T V, which is small for any number of features.
    eigenvalues, directions = np.linalg.eigh(V.T @ V)
    places = V @ directions[:, ::-1][:, :2]
    share = eigenvalues[::-1][:2] / (eigenvalues.sum() or 1.0)
    if places.shape[1] == 1:
        places, share = np.column_stack([places, np.zeros(len(V))]), np.append(share, 0.0)
    known = fields is not None or model.encoder is not None
    numbers, labels = (
        _fields_of(model, fields, field_names) if known else (np.zeros(len(V), dtype=int), ["features"])
    )
    ax = _axes(ax)
    for number, label in enumerate(labels):
        here = places[numbers == number]
        ax.scatter(*here.T, s=18, color=_COLOURS[number % len(_COLOURS)], label=label)
    names = explain.names_of_model(model, feature_names)
    if names is not None and len(V) <= _NAMED_TICKS:
        for name, place in zip(names, places, strict=True):
            short = str(name).rpartition("=")[2]  # the field is told by the colour
            ax.annotate(short, place, xytext=(3, 3), textcoords="offset points", fontsize=7)
    ax.axhline(0.0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(0.0, color="0.85", linewidth=0.8, zorder=0)
    ax.set(
        xlabel=f"first direction ({share[0]:.0%} of |V|²)",
        ylabel=f"second direction ({share[1]:.0%} of |V|²)",
    )
    if known:
        ax.legend(frameon=False, fontsize=8)
    return ax


def calibration(y: ArrayLike, p: ArrayLike, *, n_bins: int = 10, ax: Any = None) -> Any:
    """How often the second class occurs where a classifier gives it the probability p.

    A point is the mean of the samples with p in one of n_bins intervals of equal width; intervals without
    samples are left out. The points of a calibrated classifier lie on the diagonal, 19 of 20 of them with
    their bars (two standard errors).

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of two classes.
    p : array-like of shape (n_samples,)
        Probability of the second class, `predict_proba(X)[:, 1]`.
    n_bins : int, default=10
    ax : matplotlib Axes, default=None
        Where to draw; None: in a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        For arguments that do not fit.
    """
    p = numeric_array(p, "p").astype(np.float64)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"p is an array of shape {p.shape}, expected one probability from 0 to 1 per sample; give "
            "predict_proba(X)[:, 1]."
        )
    labels = targets.check_labels(y, len(p))
    classes = targets.find_classes(labels)
    if len(classes) != 2:
        raise ValueError(
            f"y has {len(classes)} classes, expected two; compare one class with the rest, as in y == label."
        )
    if not isinstance(n_bins, (int, np.integer)) or n_bins < 1:
        raise ValueError(f"n_bins is {n_bins!r}, expected a whole number, 1 or more; give for example 10.")
    bins = np.minimum((p * n_bins).astype(np.intp), n_bins - 1)
    counts = np.bincount(bins)
    filled, counts = np.flatnonzero(counts), counts[counts > 0]
    predicted = np.bincount(bins, weights=p)[filled] / counts
    observed = np.bincount(bins, weights=labels == classes[1])[filled] / counts
    error = np.sqrt(predicted * (1 - predicted) / counts)  # of the observed part, if p is right
    ax = _axes(ax)
    ax.plot([0, 1], [0, 1], "--", color="0.6", label="calibrated")
    ax.errorbar(predicted, observed, 2 * error, fmt="o-", capsize=2, label=f"{len(p):,} samples")
    ax.set(xlabel="predicted probability", ylabel="observed part", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.legend(frameon=False)
    return ax


def intervals(
    y: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, max_shown: int = 150, ax: Any = None
) -> Any:
    """Prediction intervals against what came true.

    Samples are sorted by the middle of their interval; of many, evenly spaced ones are shown. The title tells
    how many of all targets lie within.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Targets.
    lower, upper : array-like of shape (n_samples,)
        As `BayesianFMRegressor.predict_interval` gives them.
    max_shown : int, default=150
        How many intervals to draw.
    ax : matplotlib Axes, default=None
        Where to draw; None: in a new figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        For arguments that do not fit.
    """
    low = numeric_array(lower, "lower").astype(np.float64)
    high = numeric_array(upper, "upper").astype(np.float64)
    if low.ndim != 1 or not len(low) or low.shape != high.shape or not (low <= high).all():
        raise ValueError(
            f"lower and upper have shapes {low.shape} and {high.shape}, expected one interval per sample "
            "with lower <= upper; give what predict_interval returns."
        )
    truth = targets.check_regression_target(y, len(low), dtype=np.float64)
    if not isinstance(max_shown, (int, np.integer)) or max_shown < 1:
        raise ValueError(f"max_shown is {max_shown!r}, expected a whole number, 1 or more; raise it.")
    inside = (low <= truth) & (truth <= high)
    shown = np.argsort(low + high, kind="stable")
    shown = shown[np.unique(np.linspace(0, len(shown) - 1, int(max_shown)).round().astype(int))]
    place = np.arange(len(shown))
    ax = _axes(ax)
    ax.vlines(place, low[shown], high[shown], color="C0", alpha=0.35, linewidth=2, label="interval")
    for colour, label, part in (("C2", "inside", inside[shown]), ("C3", "outside", ~inside[shown])):
        ax.scatter(place[part], truth[shown][part], s=10, color=colour, label=label, zorder=3)
    ax.set(
        xlabel="samples, by the middle of their interval",
        ylabel="target",
        title=f"{inside.mean():.1%} of {len(truth):,} targets lie within",
    )
    ax.legend(frameon=False)
    return ax


# ---------------------------------------------------------------------------------------------


def _axes(ax: Any) -> Any:
    """`ax`, or that of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib, which is not installed; run pip install "fmfast[plot]".'
        ) from error
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _history_of(run: Any) -> list[dict[str, Any]]:
    if isinstance(run, Machine):
        run._fitted_model("learning_curves")
        run = run.history_
    if not isinstance(run, list) or not run or not isinstance(run[0], dict) or "loss" not in run[0]:
        raise TypeError(
            f"learning_curves got a {type(run).__name__}, expected a fitted machine or its history_; give "
            "the names of runs as labels=."
        )
    return run


def _validation_loss(record: dict[str, Any]) -> float:
    """NaN where there is none."""
    if record.get("validation_loss") is not None:  # of a Bayesian machine
        return float(record["validation_loss"])
    score = record.get("validation_score")
    return np.nan if score is None else -score


def _model_of(est: Any, what: str) -> FMModel:
    if not isinstance(est, FactorizationMachine):
        raise TypeError(
            f"{what} got a {type(est).__name__}, expected a fitted FMRegressor or FMClassifier, which has "
            "one vector per feature; give one."
        )
    model: FMModel = est._fitted_model(what)
    return model


def _fields_of(model: FMModel, fields: Any, field_names: Any) -> tuple[NDArray[np.intp], list[str]]:
    """For each feature the place of its field among the names."""
    given = explain.fields_of_model(model, fields)
    if given is None:
        raise ValueError(
            "The machine knows no fields, as it was fitted without an encoder, expected fields=: a field "
            "number per feature; give them, or columns with between=."
        )
    known, numbers = np.unique(given, return_inverse=True)
    if field_names is not None:
        names = [str(name) for name in field_names]
    elif fields is None:
        names = model.encoder.field_names_.tolist()
    else:
        names = [f"field {number}" for number in known]
    if len(names) != len(known):
        raise ValueError(
            f"field_names has {len(names)} names, expected {len(known)}, one per field; give them in the "
            "order of the field numbers."
        )
    return numbers, names


def _field_strengths(model: FMModel, output: int, numbers: NDArray[np.intp]) -> NDArray[np.float64]:
    """(n_fields, n_fields) root mean square of <v_j, v_l>; NaN on the diagonal."""
    V = model.table.V[output].astype(np.float64)
    parts = [V[numbers == number] for number in range(numbers.max() + 1)]
    grams = np.stack([part.T @ part for part in parts])
    sizes = np.array([len(part) for part in parts], dtype=np.float64)
    mean: NDArray[np.float64] = np.einsum("fab,gab->fg", grams, grams) / np.outer(sizes, sizes)
    np.fill_diagonal(mean, np.nan)
    return model.scale * np.sqrt(np.maximum(mean, 0.0))


def _name_ticks(axis: Any, labels: Sequence[str], rotation: float) -> None:
    if len(labels) <= _NAMED_TICKS:
        axis.set_ticks(range(len(labels)), labels, rotation=rotation, fontsize=8)
