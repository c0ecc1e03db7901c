"""FMRegressor and FMClassifier: the surface of fmfast. No mathematics."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import validation as check
from fmfast._docs import documented
from fmfast._sklearn import not_fitted_error
from fmfast.metrics import r2_score
from fmfast.model import FMModel, TrainingState, scale_and_offset
from fmfast.modelfile import save_model
from fmfast.parameters import BaseEstimator, check_params
from fmfast.solvers import SOLVERS, StochasticSolver
from fmfast.training import (
    Callback,
    Examples,
    Scoring,
    Stopping,
    class_probabilities,
    count_threads,
    train,
)

RandomState = int | np.random.Generator | np.random.RandomState | None


class _FactorizationMachine(BaseEstimator, ABC):
    """What regressor and classifier share: data in, training, scores out."""

    _task: str

    # Set by fit.
    model_: FMModel
    n_features_in_: int
    n_iter_: int
    history_: list[dict[str, Any]]

    def __init__(
        self,
        n_factors: int = 16,
        *,
        solver: str = "adagrad",
        max_iter: int = 10,
        learning_rate: float | None = None,
        learning_rate_decay: float | None = None,
        reg_w: float | None = None,
        reg_V: float | None = None,
        init_std: float = 0.02,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 0.0,
        scoring: str | Scoring = "loss",
        n_jobs: int | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        verbose: int = 0,
        dtype: str = "float32",
    ) -> None:
        self.n_factors = n_factors
        self.solver = solver
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.learning_rate_decay = learning_rate_decay
        self.reg_w = reg_w
        self.reg_V = reg_V
        self.init_std = init_std
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.scoring = scoring
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.dtype = dtype

    @property
    def w0_(self) -> float | NDArray[np.float64]:
        """The intercept: a float, or (n_classes,) with more than two classes."""
        return self._fitted_model("w0_").w0

    @property
    def w_(self) -> NDArray:
        """Linear weights, (n_features,), or (n_classes, n_features) with more than two classes."""
        return self._fitted_model("w_").w

    @property
    def V_(self) -> NDArray:
        """Factors, (n_features, n_factors), or (n_classes, n_features, n_factors) with more than two."""
        return self._fitted_model("V_").V

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one file, from which `fmfast.load` reads it.

        The file is a plain `.npz` of numbers with a JSON header; nothing in it is executable. It appears
        under its name only when it is complete. `callbacks` and a callable `scoring` are not saved, nor is a
        `random_state` that is not a number.

        Parameters
        ----------
        path : str or path-like
            Name of the file, used as it is.

        Raises
        ------
        NotFittedError
            If there is nothing to save.
        OSError
            If the file cannot be written; a file that stood there before is left as it was.
        """
        save_model(path, self._fitted_model("save"), type(self).__name__, self.get_params(), self.history_)

    # -- training ------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, eval_set: Any) -> Self:
        """Check everything, then train: a new model, or with warm_start the present one."""
        check_params(self)
        self._check_solver()
        names = check.feature_names_of(X)
        rows = self._check_X(X)
        target = self._target(y, rows.n_samples)
        weight = check.check_sample_weight(sample_weight, rows.n_samples)
        continued = self.warm_start and "model_" in self.__dict__
        if continued:
            model = self._continued_model(rows, X, "warm_start=True")
        else:
            model = self._new_model(rows, names, self._meaning(target, weight))
        examples = self._examples(model, rows, target, weight)
        validation = None
        if eval_set is not None:
            validation = self._check_eval_set(model, eval_set)
        elif self.early_stopping:
            examples, validation = self._split(examples, _seed_of(model))
        return self._train(model, examples, validation, self._stopping(), is_new=not continued)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        """One epoch over a batch, in the present model or a new one."""
        check_params(self)
        self._check_solver()
        names = check.feature_names_of(X)
        rows = self._check_X(X)
        target = self._target(y, rows.n_samples)
        weight = check.check_sample_weight(sample_weight, rows.n_samples)
        is_new = "model_" not in self.__dict__
        if is_new:
            model = self._new_model(rows, names, self._meaning(target, weight, classes))
        else:
            model = self._continued_model(rows, X, "partial_fit")
            self._check_same_classes(classes)
        examples = self._examples(model, rows, target, weight)
        return self._train(model, examples, None, Stopping(max_iter=1), is_new=is_new)

    @abstractmethod
    def _target(self, y: Any, n_samples: int) -> NDArray:
        """The target as it came, checked."""

    @abstractmethod
    def _meaning(self, target: NDArray, weight: NDArray, classes: Any = None) -> dict[str, Any]:
        """What the scores of a new model mean: the arguments of FMModel for it."""

    def _check_same_classes(self, classes: Any) -> None:
        """Refuse classes that differ from those of the model."""

    def _examples(self, model: FMModel, rows: check.SparseRows, target: NDArray, weight: NDArray) -> Examples:
        if model.classes is not None:
            target = check.encode_labels(target, model.classes).astype(np.float64)
        return Examples(rows, target, weight)

    def _check_eval_set(self, model: FMModel, eval_set: Any) -> Examples:
        if not isinstance(eval_set, (tuple, list)) or len(eval_set) != 2:
            raise ValueError(
                f"eval_set is a {type(eval_set).__name__} that is no pair, expected (X, y) to validate on."
            )
        X, y = eval_set
        rows = self._check_X(X, "the X of eval_set")
        check.check_n_features(rows, model.n_features, type(self).__name__)
        return self._examples(model, rows, self._target(y, rows.n_samples), np.empty(0))

    def _check_solver(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(
                f"The parameter solver of {type(self).__name__} is {self.solver!r}, expected one of "
                f"{', '.join(map(repr, SOLVERS))}."
            )

    def _solver(self, row_norm: float) -> StochasticSolver:
        return SOLVERS[self.solver].configured(
            self._task,
            row_norm,
            learning_rate=self.learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            reg_w=self.reg_w,
            reg_V=self.reg_V,
        )

    def _check_X(self, X: Any, name: str = "X") -> check.SparseRows:
        return check.check_X(X, dtype=np.dtype(self.dtype), name=name)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(0, 2**31 - 1))
        return int(np.random.default_rng(self.random_state).integers(0, 2**63 - 1))

    def _continued_model(self, rows: check.SparseRows, X: Any, what: str) -> FMModel:
        """The model so far, checked to fit new data and the present settings."""
        name = type(self).__name__
        model = self.model_
        check.check_feature_names(X, getattr(self, "feature_names_in_", None), name)
        check.check_n_features(rows, model.n_features, name)
        if model.training is None or model.training.solver != self.solver:
            before = None if model.training is None else model.training.solver
            raise ValueError(
                f"{what} continues a model trained by solver={before!r}, but solver is now {self.solver!r}; "
                "set it back, or fit anew with warm_start=False."
            )
        for parameter, now, then in (
            ("n_factors", self.n_factors, model.table.n_factors),
            ("dtype", np.dtype(self.dtype), model.table.dtype),
        ):
            if now != then:
                raise ValueError(
                    f"{what} continues a model with {parameter}={then}, but {parameter} is now {now}; "
                    "set it back, or fit anew with warm_start=False."
                )
        return model

    def _new_model(self, rows: check.SparseRows, names: NDArray | None, meaning: dict[str, Any]) -> FMModel:
        training = TrainingState(self.solver, self._seed(), rows.mean_row_norm())
        classes = meaning.get("classes")
        n_outputs = 1 if classes is None or len(classes) == 2 else len(classes)
        table = self._solver(training.row_norm).new_table(
            n_outputs,
            rows.n_features,
            int(self.n_factors),
            np.dtype(self.dtype),
            float(self.init_std),
            training.seed,
        )
        return FMModel(table, self._task, feature_names=names, training=training, **meaning)

    def _train(
        self,
        model: FMModel,
        examples: Examples,
        validation: Examples | None,
        stopping: Stopping,
        *,
        is_new: bool,
    ) -> Self:
        """Train, and publish the outcome only if that succeeds."""
        assert model.training is not None
        history = train(
            model,
            self._solver(model.training.row_norm),
            examples,
            stopping=stopping,
            validation=validation,
            scoring=None if isinstance(self.scoring, str) else self.scoring,
            callbacks=self.callbacks or (),
            n_threads=count_threads(self.n_jobs),
            verbose=bool(self.verbose),
            undoable=not is_new,
        )
        self._publish(model, history if is_new else self.history_ + history, len(history))
        return self

    def _publish(self, model: FMModel, history: list[dict[str, Any]], n_iter: int) -> None:
        self.model_ = model
        self.n_features_in_ = model.n_features
        self.n_iter_ = n_iter
        self.history_ = history
        if model.feature_names is not None:
            self.feature_names_in_ = model.feature_names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        if model.classes is not None:
            self.classes_ = model.classes

    def _stopping(self) -> Stopping:
        return Stopping(
            max_iter=int(self.max_iter),
            early=bool(self.early_stopping),
            n_iter_no_change=int(self.n_iter_no_change),
            tol=float(self.tol),
        )

    def _split(self, examples: Examples, seed: int) -> tuple[Examples, Examples]:
        """Training and validation part for early stopping; classes keep their shares."""
        n_samples = examples.rows.n_samples
        rng = np.random.default_rng([seed, 0])
        order = rng.permutation(n_samples)
        if self._task == "classification":
            # Walk through the classes in turn, so that a slice of the order has them in proportion.
            order = order[np.argsort(examples.target[order], kind="stable")]
            order = order[np.argsort(_rank_within(examples.target[order]), kind="stable")]
        n_validation = round(self.validation_fraction * n_samples)
        if n_validation == 0 or n_validation == n_samples:
            raise ValueError(
                f"early_stopping=True sets {n_validation} of {n_samples} samples apart for validation "
                f"(validation_fraction={self.validation_fraction:g}), which leaves a part empty; give "
                "more samples, an eval_set, or early_stopping=False."
            )
        return examples.take(np.sort(order[n_validation:])), examples.take(np.sort(order[:n_validation]))

    # -- prediction ----------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _fitted_model(self, method: str) -> FMModel:
        if "model_" not in self.__dict__:
            raise not_fitted_error()(
                f"This {type(self).__name__} instance is not fitted yet, so {method} is not available; "
                "call fit first."
            )
        return self.model_

    def _raw_scores(self, X: Any, method: str) -> NDArray[np.float64]:
        model = self._fitted_model(method)
        name = type(self).__name__
        check.check_feature_names(X, model.feature_names, name)
        rows = check.check_X(X, dtype=model.table.dtype)
        check.check_n_features(rows, model.n_features, name)
        return model.score(rows, count_threads(self.n_jobs))


def _seed_of(model: FMModel) -> int:
    assert model.training is not None
    return model.training.seed


def _rank_within(values: NDArray) -> NDArray[np.float64]:
    """For sorted values: how far along its group of equals each stands, from 0 to 1."""
    _, start, count = np.unique(values, return_index=True, return_counts=True)
    return (np.arange(len(values)) - np.repeat(start, count) + 0.5) / np.repeat(count, count)


@documented
class FMRegressor(_FactorizationMachine):
    """Factorization machine for numeric targets: ratings, prices, durations.

    Minimises the squared error. The target is standardised for the solver, so that its unit and offset do not
    matter to the settings.

    {parameters}

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from fmfast import FMRegressor
    >>> user, item = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    >>> X = sp.csr_array(np.hstack([np.eye(6)[user], np.eye(6)[item]]))
    >>> y = 3.0 + (user % 2) * (item % 2)
    >>> fm = FMRegressor(n_factors=4, max_iter=200, reg_V=0.0, random_state=0).fit(X, y)
    >>> np.abs(fm.predict(X) - y).max() < 0.1
    np.True_
    """

    _kind = "regressor"
    _task = "regression"

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
    ) -> Self:
        """{fit}"""
        return self._fit(X, y, sample_weight, eval_set)

    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """{partial_fit}

        The first call fixes the scale on which the target is learned: give it a typical batch.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Predicted targets.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        float64 ndarray of shape (n_samples,)
        """
        return self._raw_scores(X, "predict")

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R^2 of the prediction: 1 is perfect, 0 as good as the mean.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,) or None
        """
        prediction = self.predict(X)
        target = check.check_regression_target(y, len(prediction))
        weight = check.check_sample_weight(sample_weight, len(target))
        return r2_score(target, prediction, weight)

    # -- how a regression meets the shared parts ------------------------------------------------

    def _target(self, y: Any, n_samples: int) -> NDArray:
        return check.check_regression_target(y, n_samples)

    def _meaning(self, target: NDArray, weight: NDArray, classes: Any = None) -> dict[str, Any]:
        scale, offset = scale_and_offset(target, weight)
        return {"scale": scale, "offset": offset}


@documented
class FMClassifier(_FactorizationMachine):
    """Factorization machine for classes: clicks, purchases, categories.

    Minimises the log loss. More than two classes are learned one versus rest. Labels may be of any type that
    can be sorted.

    {parameters}
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from fmfast import FMClassifier
    >>> X = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]])
    >>> y = np.array(["same", "other", "other", "same"])  # exclusive or: no linear model can learn it
    >>> fm = FMClassifier(n_factors=4, max_iter=500, reg_V=0.0, random_state=0).fit(X, y)
    >>> fm.predict(X)
    array(['same', 'other', 'other', 'same'], dtype='<U5')
    """

    _kind = "classifier"
    _task = "classification"
    classes_: NDArray

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
    ) -> Self:
        """{fit}"""
        return self._fit(X, y, sample_weight, eval_set)

    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """{partial_fit}

        `classes`, array-like of shape (n_classes,), must name every class that may ever occur at the first
        call, and may be left out later.
        """
        if classes is None and "model_" not in self.__dict__:
            raise ValueError(
                "classes must be passed on the first call to partial_fit: every label that may occur."
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Raw scores: log-odds of the second class, or of each class against the rest.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        float64 ndarray of shape (n_samples,), or (n_samples, n_classes) with more than two classes
        """
        return self._raw_scores(X, "decision_function")

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        float64 ndarray of shape (n_samples, n_classes)
            Every row sums to 1. One-versus-rest probabilities are divided by their sum.
        """
        return class_probabilities(self._raw_scores(X, "predict_proba"))

    def predict(self, X: Any) -> NDArray:
        """The most probable class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), of the dtype of `classes_`
        """
        raw = self._raw_scores(X, "predict")
        return self.classes_[(raw > 0).astype(np.intp) if raw.ndim == 1 else raw.argmax(axis=1)]

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of the prediction: the (weighted) share of correct classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,) or None
        """
        prediction = self.predict(X)
        labels = check.check_labels(y, len(prediction))
        weight = check.check_sample_weight(sample_weight, len(labels))
        return float(np.average(prediction == labels, weights=weight if len(weight) else None))

    # -- how a classification meets the shared parts ---------------------------------------------

    def _target(self, y: Any, n_samples: int) -> NDArray:
        return check.check_labels(y, n_samples)

    def _meaning(self, target: NDArray, weight: NDArray, classes: Any = None) -> dict[str, Any]:
        found = check.find_classes(target if classes is None else check.check_labels(classes, None))
        if len(found) < 2:
            raise ValueError(
                f"y has only one class, {found[0]!r}; a classifier needs samples of at least two classes."
            )
        return {"classes": found}

    def _check_same_classes(self, classes: Any) -> None:
        if classes is None:
            return
        given = check.find_classes(check.check_labels(classes, None))
        if len(given) != len(self.classes_) or (given != self.classes_).any():
            raise ValueError(
                f"classes is {given.tolist()!r}, but the first call to partial_fit had "
                f"{self.classes_.tolist()!r}; leave it out, or fit anew."
            )
