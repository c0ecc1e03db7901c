"""The machine that the solvers of `SOLVERS` train: constructor, fit, scores. No mathematics."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import explain as explaining
from fmfast import validation as check
from fmfast._docs import documented
from fmfast.arrays import check_growth, model_of_arrays
from fmfast.base import Machine, RandomState
from fmfast.encoder import FeatureEncoder
from fmfast.model import FMModel, TrainingState
from fmfast.parameters import check_params
from fmfast.solvers import SOLVERS, Solver
from fmfast.training import (
    Callback,
    Examples,
    Progress,
    Scoring,
    Stopping,
    count_threads,
    n_set_apart,
    train,
)


@documented
class FactorizationMachine(Machine, ABC):
    """Constructor, training and scoring; a subclass says what its target is and what a score means."""

    model_: FMModel

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
        init_std: float | None = None,
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
        encoder: FeatureEncoder | None = None,
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
        self.encoder = encoder

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

    # -- training ------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> Self:
        """{fit}"""
        check_params(self)
        is_new = not (self.warm_start and self.__sklearn_is_fitted__())
        examples, meaning = self._check_data(X, y, sample_weight, "" if is_new else "warm_start=True")
        n_validation, validation = 0, None
        if eval_set is not None:
            validation = self._check_eval_set(eval_set, examples.rows.n_features, meaning)
        elif self.early_stopping:
            n_validation = n_set_apart(self.validation_fraction, examples.rows.n_samples, "samples")
        model, progress, keep = self._resume(resume_from, examples, validation, meaning, is_new)
        # From here on nothing is wrong with the arguments, so a generator may be asked for a seed.
        if progress is None:
            model = self._new_model(examples, meaning) if is_new else self.model_
        if n_validation:
            examples, validation = examples.split(n_validation, _seed_of(model), model.classes is not None)
        return self._train(
            model, examples, validation, self._stopping(), is_new=is_new, progress=progress, keep=keep
        )

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        """One epoch over a batch, in the present model or a new one."""
        check_params(self)
        is_new = not self.__sklearn_is_fitted__()
        examples, meaning = self._check_data(X, y, sample_weight, "" if is_new else "partial_fit", classes)
        model = self._new_model(examples, meaning) if is_new else self.model_
        return self._train(model, examples, None, Stopping(max_iter=1), is_new=is_new)

    def _check_settings(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(
                f"The parameter solver of {type(self).__name__} is {self.solver!r}, expected one of "
                f"{', '.join(map(repr, SOLVERS))}; set it in the constructor or with set_params(solver=...)."
            )
        unset = {"l1_w": 0.0}
        for name in SOLVERS[self.solver].unused:
            value = getattr(self, name)
            if value != unset.get(name):
                users = [kind.name for kind in SOLVERS.values() if name not in kind.unused]
                raise ValueError(
                    f"The parameter {name} of {type(self).__name__} is {value!r} with solver="
                    f"{self.solver!r}, expected {unset.get(name)!r}: it is for "
                    f"{', '.join(map(repr, users))} only; use that solver, or leave {name} out."
                )

    def _solver(self, row_norm: float) -> Solver:
        return SOLVERS[self.solver].configured(
            self._task,
            row_norm,
            learning_rate=self.learning_rate,
            learning_rate_decay=self.learning_rate_decay,
            reg_w=self.reg_w,
            reg_V=self.reg_V,
            l1_w=self.l1_w,
            tol=float(self.tol),
        )

    def _check_continued(self, rows: check.SparseRows, X: Any, what: str) -> None:
        training = self.model_.training
        if training is None:
            raise ValueError(
                f"{what} continues a model trained by solver=None, but parameters alone, without the "
                "state of a solver, can only predict; fit anew with warm_start=False."
            )
        if training.solver != self.solver:
            raise ValueError(
                f"{what} continues a model trained by solver={training.solver!r}, but solver is now "
                f"{self.solver!r}; set it back, or fit anew with warm_start=False."
            )
        super()._check_continued(rows, X, what)

    def _new_model(self, examples: Examples, meaning: dict[str, Any]) -> FMModel:
        rows = examples.rows
        kind = SOLVERS[self.solver]
        n_factors = int(self.n_factors)
        init_std = self.init_std
        if init_std is None:
            init_std = kind.starting_std(rows, examples.weight, n_factors, self._task)
        row_norm = rows.mean_row_norm(kind.row_norm_power)
        training = TrainingState(self.solver, self._seed(), row_norm, float(init_std))
        classes = meaning.get("classes")
        n_outputs = 1 if classes is None or len(classes) == 2 else len(classes)
        table = self._solver(training.row_norm).new_table(
            n_outputs,
            rows.n_features,
            n_factors,
            np.dtype(self.dtype),
            training.init_std,
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
        progress: Progress | None = None,
        keep: Callable[[FMModel, Progress], None] | None = None,
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
            undoable=not is_new and progress is None,
            progress=progress,
            keep=keep and partial(keep, model),
        )
        self._publish(model, history if is_new else self.history_ + history, len(history))
        return self

    def _stopping(self) -> Stopping:
        return Stopping(
            max_iter=int(self.max_iter),
            early=bool(self.early_stopping),
            n_iter_no_change=int(self.n_iter_no_change),
            tol=float(self.tol),
        )

    # -- the parameters ------------------------------------------------------------------------

    def grow(self, n_features: int, feature_names: Sequence[str] | None = None) -> Self:
        """Add columns at the end of those that the model knows, without touching what was learned.

        A new column is as it would be, had there been one without an entry all the time: training that
        goes on by `partial_fit` or `warm_start` has the same outcome to the bit. Until then its V is random
        (with solver="als" 0) and its w is 0.

        Parameters
        ----------
        n_features : int
            How many columns there are to be.
        feature_names : sequence of str or None
            The names of all columns, those of before first; needed if the model has names.

        Returns
        -------
        self

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If n_features is less than now, the names do not fit, an encoder makes the columns, or the model
            is one of `from_arrays`, which knows no initial state.
        """
        model = self._fitted_model("grow")
        names = check_growth(model, n_features, feature_names)
        training = model.training
        table = SOLVERS[training.solver].grown_table(
            model.table, int(n_features), training.init_std, training.seed
        )
        grown = replace(model, table=table, feature_names=names, training=replace(training))
        self._publish(grown, self.history_, self.n_iter_)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The parameters of the fitted model as arrays, in the units of the target.

        Neither an encoder nor the state of the solver is among them; `save` keeps all.

        Returns
        -------
        dict
            "w0", "w" and "V" as the attributes w0_, w_ and V_, as copies; "feature_names", an object ndarray
            or None; for a classifier "classes". `from_arrays` takes them as its arguments.
        """
        model = self._fitted_model("to_dict")
        arrays = {"w0": model.w0, "w": np.array(model.w), "V": np.array(model.V)}
        if model.classes is not None:
            arrays["classes"] = np.array(model.classes)
        return arrays | {"feature_names": None if model.feature_names is None else model.feature_names.copy()}

    @classmethod
    def _from_arrays(
        cls, w0: Any, w: Any, V: Any, classes: Any, feature_names: Any, params: dict[str, Any]
    ) -> Self:
        machine = cls(**params)
        check_params(machine)
        model = model_of_arrays(w0, w, V, classes, feature_names, params.get("dtype"))
        machine.set_params(n_factors=model.n_factors, dtype=model.dtype.name)
        machine._publish(model, [], 0)
        return machine

    # -- prediction ----------------------------------------------------------------------------

    def _raw_scores(self, X: Any, method: str) -> NDArray[np.float64]:
        rows = self._rows_to_score(X, method)
        return self.model_.score(rows, count_threads(self.n_jobs, rows.n_samples))

    # -- what was learned ------------------------------------------------------------------------

    def explain(
        self, x: Any, *, class_: Any = None, feature_names: Sequence[str] | None = None
    ) -> explaining.Explanation:
        """Split the score of one row into w0, a term per feature and one per pair of features.

        Parameters
        ----------
        x : {array-like, sparse matrix} of shape (1, n_features), or a table of one row with an encoder
        class_ : label, default=None
            The class whose score is split; needed with more than two. None: the predicted target of a
            regressor, the log-odds of the second class of a classifier.
        feature_names : sequence of str of length n_features, default=None
            None: those of the DataFrame or of the encoder that the machine was fitted with.

        Returns
        -------
        Explanation
            Its terms add up to the score, the largest |contribution| first; its repr shows these, and
            `rows()` lists all. There are as many pairs as m (m - 1) / 2 for a row with m values.

        Raises
        ------
        NotFittedError, ValueError, TypeError
            As `predict`; also for several rows, an unknown class, or names that do not fit.

        Notes
        -----
        In the units of the target, or in log-odds; each class of several has log-odds of its own.
        """
        row = self._rows_to_score(x, "explain")
        if row.n_samples != 1:
            raise ValueError(
                f"explain got {row.n_samples} rows, expected one; give X[[i]], or call it for each row."
            )
        output, sign = explaining.output_of(self.model_, class_)
        names = explaining.names_of_model(self.model_, feature_names)
        return explaining.explain_row(self.model_, row, output, sign, names)

    def top_interactions(
        self,
        n: int = 10,
        *,
        between: tuple[Any, Any] | None = None,
        scale: ArrayLike | None = None,
        fields: ArrayLike | None = None,
        class_: Any = None,
        feature_names: Sequence[str] | None = None,
    ) -> explaining.Interactions:
        """The pairs of features that change a score most: the largest |<v_j, v_l>| scale_j scale_l.

        The search is exact, and never holds more than a block of the n_features^2 pairs.

        Parameters
        ----------
        n : int, default=10
            How many pairs; fewer are returned where there are fewer that change any score.
        between : pair or None, default=None
            One feature from each: the names of two fields of the encoder, or two arrays of column numbers.
            None: any two features, but for those of the same field, where fields are known.
        scale : array-like of shape (n_features,) or None, default=None
            Typical values of the features. None: 1, as for one-hot features.
        fields : array-like of int of shape (n_features,) or None, default=None
            Field number of each feature. None: those of the encoder.
        class_, feature_names
            As for `explain`.

        Returns
        -------
        Interactions

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            For arguments that do not fit the machine.
        """
        model = self._fitted_model("top_interactions")
        groups = explaining.groups_of(model, between)
        output, sign = explaining.output_of(model, class_)
        return explaining.strongest_pairs(
            model,
            explaining.check_n(n),
            output,
            sign,
            groups,
            explaining.check_scale(scale, model.n_features),
            explaining.fields_of_model(model, fields) if between is None else None,
            explaining.names_of_model(model, feature_names),
        )


def learns_in_batches(machine: FactorizationMachine) -> str | None:
    """Why there is no `partial_fit`, or None."""
    if machine.solver != "als":
        return None
    return (
        f"This {type(machine).__name__} has no partial_fit with solver='als', which finds the optimum for "
        "the data it is given and would forget all batches but the last; use another solver, or fit."
    )


def _seed_of(model: FMModel) -> int:
    assert model.training is not None
    return model.training.seed
