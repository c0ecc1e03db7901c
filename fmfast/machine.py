"""What all factorization machines of the surface share: data in, training, scores out. No mathematics."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import targets as check_y
from fmfast import validation as check
from fmfast._docs import documented
from fmfast._sklearn import not_fitted_error
from fmfast.model import FMModel, TrainingState
from fmfast.modelfile import save_model
from fmfast.parameters import BaseEstimator, check_param, check_params
from fmfast.solvers import SOLVERS, StochasticSolver
from fmfast.training import (
    Callback,
    Examples,
    Scoring,
    Stopping,
    count_threads,
    train,
)

RandomState = int | np.random.Generator | np.random.RandomState | None


@documented
class FactorizationMachine(BaseEstimator, ABC):
    """Constructor, training and scoring; a subclass says what its target is and what a score means."""

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
        l1_w: float = 0.0,
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
        self.l1_w = l1_w
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
        ValueError, TypeError
            If a file cannot hold it: class labels that are not strings, numbers or booleans, a derived class.
        OSError
            If the file cannot be written; a file that stood there before is left as it was.
        """
        self._fitted_model("save")
        save_model(path, self)

    # -- training ------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
    ) -> Self:
        """{fit}"""
        check_params(self)
        is_new = not (self.warm_start and self.__sklearn_is_fitted__())
        examples, meaning = self._check_data(X, y, sample_weight, "" if is_new else "warm_start=True")
        n_validation, validation = 0, None
        if eval_set is not None:
            validation = self._check_eval_set(eval_set, examples.rows.n_features, meaning)
        elif self.early_stopping:
            n_validation = self._n_validation(examples.n_counting)
        # From here on nothing is wrong with the arguments, so a generator may be asked for a seed.
        model = self._new_model(examples.rows, meaning) if is_new else self.model_
        if n_validation:
            examples, validation = examples.split(n_validation, _seed_of(model), model.classes is not None)
        return self._train(model, examples, validation, self._stopping(), is_new=is_new)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        """One epoch over a batch, in the present model or a new one."""
        check_params(self)
        is_new = not self.__sklearn_is_fitted__()
        examples, meaning = self._check_data(X, y, sample_weight, "" if is_new else "partial_fit", classes)
        model = self._new_model(examples.rows, meaning) if is_new else self.model_
        return self._train(model, examples, None, Stopping(max_iter=1), is_new=is_new)

    def _check_data(
        self, X: Any, y: Any, sample_weight: Any, continues: str, classes: Any = None
    ) -> tuple[Examples, dict[str, Any]]:
        """The examples, and what the scores of the model mean: arguments of FMModel.

        `continues` says who goes on with the present model; it is empty if a new one begins.
        """
        self._check_solver()
        names = check.feature_names_of(X)
        rows = self._check_X(X)
        target = self._target(y, rows.n_samples)
        weight = check_y.check_sample_weight(sample_weight, rows.n_samples)
        if continues:
            self._check_continued(rows, X, continues)
            self._check_same_classes(classes)
            meaning = {"classes": self.model_.classes, "feature_names": self.model_.feature_names}
        else:
            meaning = {"feature_names": names, **self._meaning(target, weight, classes)}
        return _examples(rows, target, weight, meaning), meaning

    @abstractmethod
    def _target(self, y: Any, n_samples: int, name: str = "y") -> NDArray:
        """The target as it came, checked."""

    @abstractmethod
    def _meaning(self, target: NDArray, weight: NDArray, classes: Any) -> dict[str, Any]:
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
        check.check_feature_names(X, meaning["feature_names"], type(self).__name__)
        rows = self._check_X(X, name)
        check.check_n_features(rows, n_features, type(self).__name__, name)
        target = self._target(y, rows.n_samples, target_name)
        return _examples(rows, target, np.empty(0), meaning, target_name)

    def _check_solver(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(
                f"The parameter solver of {type(self).__name__} is {self.solver!r}, expected one of "
                f"{', '.join(map(repr, SOLVERS))}; set it in the constructor or with set_params(solver=...)."
            )
        if self.l1_w and self.solver != "ftrl":
            raise ValueError(
                f"The parameter l1_w of {type(self).__name__} is {self.l1_w!r} with solver={self.solver!r}, "
                "expected 0: only solver='ftrl' sets weights to zero; use it, or leave l1_w out."
            )

    def _solver(self, row_norm: float) -> StochasticSolver:
        return SOLVERS[self.solver].configured(
            self._task,
            row_norm,
            learning_rate=self.learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            reg_w=self.reg_w,
            reg_V=self.reg_V,
            l1_w=self.l1_w,
        )

    def _check_X(self, X: Any, name: str = "X") -> check.SparseRows:
        return check.check_X(X, dtype=np.dtype(self.dtype), name=name)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        if isinstance(self.random_state, np.random.RandomState):
            return int(self.random_state.randint(0, 2**31 - 1))
        return int(np.random.default_rng(self.random_state).integers(0, 2**63 - 1))

    def _check_continued(self, rows: check.SparseRows, X: Any, what: str) -> None:
        """Refuse data or settings with which the present model cannot be trained further."""
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

    def _new_model(self, rows: check.SparseRows, meaning: dict[str, Any]) -> FMModel:
        training = TrainingState(
            self.solver, self._seed(), rows.mean_row_norm(SOLVERS[self.solver].row_norm_power)
        )
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
        return FMModel(table, self._task, training=training, **meaning)

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
            n_threads=count_threads(self.n_jobs, examples.rows.n_samples),
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

    def _n_validation(self, n_samples: int) -> int:
        """How many samples early stopping sets apart; not 0, and not all."""
        n_validation = round(self.validation_fraction * n_samples)
        if n_validation == 0 or n_validation == n_samples:
            raise ValueError(
                f"early_stopping=True sets {n_validation} of {n_samples} samples apart for validation "
                f"(validation_fraction={self.validation_fraction:g}), expected some for either part; give "
                "more samples, an eval_set, or early_stopping=False."
            )
        return n_validation

    # -- prediction ----------------------------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _fitted_model(self, method: str) -> FMModel:
        if not self.__sklearn_is_fitted__():
            raise not_fitted_error()(
                f"This {type(self).__name__} instance is not fitted yet, so {method} is not available; "
                "call fit first."
            )
        return self.model_

    def _raw_scores(self, X: Any, method: str) -> NDArray[np.float64]:
        model = self._fitted_model(method)
        name = type(self).__name__
        check_param(self, "n_jobs")
        check.check_feature_names(X, model.feature_names, name)
        rows = check.check_X(X, dtype=model.table.dtype)
        check.check_n_features(rows, model.n_features, name)
        return model.score(rows, count_threads(self.n_jobs, rows.n_samples))


def _seed_of(model: FMModel) -> int:
    assert model.training is not None
    return model.training.seed


def _examples(
    rows: check.SparseRows, target: NDArray, weight: NDArray, meaning: dict[str, Any], name: str = "y"
) -> Examples:
    """Checked data as examples: labels become the codes of their classes."""
    if meaning.get("classes") is not None:
        target = check_y.encode_labels(target, meaning["classes"], name).astype(np.float64)
    return Examples(rows, target, weight)
