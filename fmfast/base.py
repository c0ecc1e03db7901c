"""What all estimators share: data in, what was learned out, saving. No mathematics."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmfast import targets as check_y
from fmfast import validation as check
from fmfast._sklearn import not_fitted_error
from fmfast.checkpoint import ResumableFit, identity_of
from fmfast.encoder import FeatureEncoder
from fmfast.exceptions import ModelFileError
from fmfast.modelfile import check_saveable, plain_params, save_model
from fmfast.paging import pieces
from fmfast.parameters import BaseEstimator, check_param
from fmfast.training import Callback, Examples, Progress

_LABELS = ("classes", "feature_names")
_NO_MATTER = ("callbacks", "n_jobs", "verbose")  # to the outcome of a fit

RandomState = int | np.random.Generator | np.random.RandomState | None


class Learner(BaseEstimator):
    """What is trained, and can be saved."""

    _task: str  # "regression", "classification" or "ranking"
    _is_bayesian = False

    # Of every constructor.
    random_state: RandomState

    # Set by fit.
    model_: Any
    n_features_in_: int
    n_iter_: int
    history_: list[dict[str, Any]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one file, from which `fmfast.load` reads it.

        The file is a plain `.npz` of numbers with a JSON header; nothing in it is executable. It appears
        under its name only when it is complete. `callbacks`, `groups` (though `groups_` is) and a callable
        `scoring` are not saved, nor is a `random_state` that is not a number.

        Parameters
        ----------
        path : str or path-like
            Name of the file, used as it is.

        Raises
        ------
        NotFittedError
            If there is nothing to save.
        ValueError, TypeError
            If a file cannot hold it: class labels that are not strings, numbers or booleans, a derived class.
        OSError
            If the file cannot be written; a file that stood there before is left as it was.
        """
        self._fitted_model("save")
        save_model(path, self)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(0, 2**31 - 1))
        return int(np.random.default_rng(self.random_state).integers(0, 2**63 - 1))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _fitted_model(self, method: str) -> Any:
        if not self.__sklearn_is_fitted__():
            raise not_fitted_error()(
                f"This {type(self).__name__} instance is not fitted yet, so {method} is not available; "
                "call fit first."
            )
        return self.model_


class Machine(Learner, ABC):
    """Checks its data and publishes a model; a subclass says how that is trained, and what a score means."""

    # Of every constructor.
    dtype: str
    callbacks: Sequence[Callback] | None
    encoder: FeatureEncoder | None
    n_factors: int
    n_jobs: int | None
    solver: str

    # -- data in -------------------------------------------------------------------------------

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, continues: str, classes: Any = None
    ) -> tuple[Examples, dict[str, Any]]:
        """The examples, and what the scores of the model mean: arguments of FMModel.

        `continues` says who goes on with the present model; it is empty if a new one begins.
        """
        self._check_settings()
        X, encoder = self._encoded(X, bool(continues))
        names = check.feature_names_of(X)
        rows = self._check_X(X)
        target = self._target(y, rows.n_samples)
        weight = check_y.check_sample_weight(sample_weight, rows.n_samples)
        if continues:
            self._check_continued(rows, X, continues)
            self._check_same_classes(classes)
            meaning = {name: getattr(self.model_, name) for name in ("classes", "feature_names", "encoder")}
        else:
            meaning = {"feature_names": names, "encoder": encoder, **self._meaning(target, weight, classes)}
        return examples_of(rows, target, weight, meaning), meaning

    def _encoded(self, X: Any, continues: bool) -> tuple[Any, FeatureEncoder | None]:
        """The rows of a table, if an encoder makes them, and that encoder, fitted."""
        if continues:
            encoder = self.model_.encoder
            return (X if encoder is None else encoder.transform(X)), encoder
        if self.encoder is None:
            return X, None
        encoder = type(self.encoder)(**self.encoder.get_params(deep=False))  # the parameter stays as it was
        return encoder.fit_transform(X), encoder

    @abstractmethod
    def _target(self, y: Any, n_samples: int, name: str = "y") -> NDArray[Any]:
        """The target as it came, checked."""

    @abstractmethod
    def _meaning(self, target: NDArray[Any], weight: NDArray[Any], classes: Any) -> dict[str, Any]:
        """What the scores of a new model mean: arguments of FMModel."""

    def _check_same_classes(self, classes: Any) -> None:
        """Refuse classes that differ from those of the model."""

    def _check_eval_set(self, eval_set: Any, n_features: int, meaning: dict[str, Any]) -> Examples:
        if not isinstance(eval_set, (tuple, list)) or len(eval_set) != 2:
            length = f" of length {len(eval_set)}" if isinstance(eval_set, (tuple, list)) else ""
            raise ValueError(
                f"eval_set is a {type(eval_set).__name__}{length}, expected a pair (X, y) of validation "
                "data; put the two in a tuple."
            )
        X, y = eval_set
        name, target_name = "the X of eval_set", "the y of eval_set"
        if meaning["encoder"] is not None:
            X = meaning["encoder"].transform(X)
        check.check_feature_names(X, meaning["feature_names"], type(self).__name__)
        rows = self._check_X(X, name)
        check.check_n_features(rows, n_features, type(self).__name__, name)
        target = self._target(y, rows.n_samples, target_name)
        return examples_of(rows, target, np.empty(0), meaning, target_name)

    def _check_X(self, X: Any, name: str = "X") -> check.SparseRows:
        return check.check_X(X, dtype=np.dtype(self.dtype), name=name)

    def _check_settings(self) -> None:
        """Refuse constructor arguments that do not go together."""

    def _check_continued(self, rows: check.SparseRows, X: Any, what: str) -> None:
        """Refuse data or settings with which the present model cannot be trained further."""
        name = type(self).__name__
        model = self.model_
        check.check_feature_names(X, model.feature_names, name)
        check.check_n_features(rows, model.n_features, name)
        for parameter, now, then in (
            ("n_factors", self.n_factors, model.n_factors),
            ("dtype", np.dtype(self.dtype), model.dtype),
        ):
            if now != then:
                raise ValueError(
                    f"{what} continues a model with {parameter}={then}, but {parameter} is now {now}; "
                    "set it back, or fit anew with warm_start=False."
                )

    # -- checkpoints -----------------------------------------------------------------------------

    def _resume(
        self,
        resume_from: str | os.PathLike[str] | None,
        examples: Examples,
        validation: Examples | None,
        meaning: dict[str, Any],
        is_new: bool,
    ) -> tuple[Any, Progress | None, Callable[[Any, Progress], None]]:
        """Model and progress to go on from, None for a new start; and what writes the checkpoints."""
        history = [] if is_new else self.history_

        def identity() -> dict[str, Any]:
            # What no checkpoint can hold is refused now, not after an epoch.
            check_saveable(self, meaning.get("classes"))
            labels = [None if meaning.get(key) is None else meaning[key].tolist() for key in _LABELS]
            return identity_of(self._settings(), examples, validation, labels, len(history))

        def keep(model: Any, progress: Progress) -> None:
            checkpoints.keep(progress, lambda: self._published(model, history, progress))

        checkpoints = ResumableFit(self.callbacks or (), resume_from, identity)
        resumed = checkpoints.begin()
        if resumed is None:
            return None, None, keep
        model, progress = resumed
        sizes = (model.n_features, model.n_factors, model.dtype, model.solver)
        expected = (examples.rows.n_features, self.n_factors, np.dtype(self.dtype), self.solver)
        if sizes != expected:  # a kernel would leave the table
            raise ModelFileError(
                f"The checkpoint in {str(resume_from)!r} holds a model of other sizes or another solver than "
                "it says; remove it."
            )
        if is_new:
            self._seed()  # whoever shares the generator finds it as after a fit without interruption
        return model, progress, keep

    def _settings(self) -> dict[str, Any]:
        """What decides about the outcome of a fit, as JSON can hold it."""
        return {key: value for key, value in plain_params(self).items() if key not in _NO_MATTER}

    def _published(self, model: Any, history: list[dict[str, Any]], progress: Progress) -> Self:
        """Another estimator, fitted with this model; nothing is copied."""
        other = copy.copy(self)
        other._publish(model, history + progress.history, len(progress.history))
        return other

    # -- what was learned ------------------------------------------------------------------------

    def _publish(self, model: Any, history: list[dict[str, Any]], n_iter: int) -> None:
        self.model_ = model
        self.n_features_in_ = model.n_features
        self.n_iter_ = n_iter
        self.history_ = history
        if model.encoder is not None:
            self.n_features_in_ = model.encoder.n_features_in_
            self.feature_names_in_ = model.encoder.feature_names_in_
        elif model.feature_names is not None:
            self.feature_names_in_ = model.feature_names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if model.classes is not None:
            self.classes_ = model.classes

    def _rows_to_score(self, X: Any, method: str) -> check.SparseRows:
        """Checked rows that fit the model."""
        model = self._fitted_model(method)
        name = type(self).__name__
        check_param(self, "n_jobs")
        if model.encoder is not None:
            X = model.encoder.transform(X)
        check.check_feature_names(X, model.feature_names, name)
        rows = check.check_X(X, dtype=model.dtype)
        check.check_n_features(rows, model.n_features, name)
        return rows


def examples_of(
    rows: check.SparseRows,
    target: NDArray[Any],
    weight: NDArray[Any],
    meaning: dict[str, Any],
    name: str = "y",
) -> Examples:
    """Checked data as examples: labels become the codes of their classes."""
    if meaning.get("classes") is not None:
        target = check_y.class_codes(target, meaning["classes"], name)
    examples = Examples(rows, target, weight)
    # A sample of weight 0 is as good as none, whatever a solver counts.
    counts = all(weight[part].all() for part in pieces(weight))
    return examples if counts else examples.take(np.flatnonzero(weight))
