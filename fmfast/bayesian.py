"""BayesianFMRegressor and BayesianFMClassifier: averages over a posterior. No mathematics."""

from __future__ import annotations

import os
import zlib
from abc import ABC
from collections.abc import Sequence
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import validation as check
from fmfast._docs import documented
from fmfast.base import Machine, RandomState
from fmfast.columns import SparseColumns
from fmfast.encoder import FeatureEncoder
from fmfast.modelfile import saveable
from fmfast.parameters import check_params, is_number
from fmfast.posterior import Posterior, probit_scores
from fmfast.sampling import draw_samples
from fmfast.solvers.gibbs import ChainState
from fmfast.solvers.sweep import starting_std
from fmfast.targets import check_groups
from fmfast.tasks import ClassificationTask, RegressionTask
from fmfast.training import Callback, Examples, count_threads


@documented
class BayesianMachine(Machine, ABC):
    """Constructor and sampling; a subclass says what its target is and what a score means."""

    _is_bayesian = True
    model_: Posterior
    solver = "gibbs"  # not a setting: there is no other

    def __init__(
        self,
        n_factors: int = 16,
        *,
        n_iter: int = 200,
        n_burn_in: int = 10,
        n_kept_samples: int = 200,
        groups: ArrayLike | None = None,
        init_std: float | None = None,
        n_jobs: int | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        verbose: int = 0,
        dtype: str = "float32",
        encoder: FeatureEncoder | None = None,
    ) -> None:
        self.n_factors = n_factors
        self.n_iter = n_iter
        self.n_burn_in = n_burn_in
        self.n_kept_samples = n_kept_samples
        self.groups = groups
        self.init_std = init_std
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.dtype = dtype
        self.encoder = encoder

    @property
    def w0_(self) -> float | NDArray[np.float64]:
        """Posterior mean of the intercept: a float, or (n_classes,) with more than two classes."""
        w0: float | NDArray[np.float64] = self._fitted_model("w0_").w0
        return w0

    @property
    def w_(self) -> NDArray[Any]:
        """Posterior mean of the linear weights, (n_features,) or (n_classes, n_features)."""
        w: NDArray[Any] = self._fitted_model("w_").w
        return w

    @property
    def groups_(self) -> NDArray[np.int32]:
        """(n_features,) group of each column, numbered from 0."""
        groups: NDArray[np.int32] = self._fitted_model("groups_").chain.groups
        return groups

    @property
    def n_kept_samples_(self) -> int:
        """Draws from the posterior that predictions are averaged over."""
        return len(self._fitted_model("n_kept_samples_").draws)

    def _fit(self, X: Any, y: Any, sample_weight: Any, eval_set: Any, resume_from: Any) -> Self:
        check_params(self)
        is_new = not (self.warm_start and self.__sklearn_is_fitted__())
        examples, meaning = self._check_data(X, y, sample_weight, "" if is_new else "warm_start=True")
        groups = check_groups(self.groups, examples.rows.n_features)
        validation = None
        if eval_set is not None:
            validation = self._check_eval_set(eval_set, examples.rows.n_features, meaning)
        posterior, progress, keep = self._resume(resume_from, examples, validation, meaning, is_new)
        # From here on nothing is wrong with the arguments, so a generator may be asked for a seed.
        columns = SparseColumns.of(examples.rows, np.dtype(self.dtype))
        if progress is None:
            posterior = self._new_posterior(examples, columns, meaning, groups) if is_new else self.model_
        posterior, history = draw_samples(
            posterior,
            examples,
            n_iter=int(self.n_iter),
            n_burn_in=int(self.n_burn_in),
            n_kept=int(self.n_kept_samples),
            columns=columns,
            validation=validation,
            callbacks=self.callbacks or (),
            n_threads=count_threads(self.n_jobs, examples.rows.n_samples),
            verbose=bool(self.verbose),
            progress=progress,
            keep=keep,
        )
        self._publish(posterior, history if is_new else self.history_ + history, len(history))
        return self

    def _settings(self) -> dict[str, Any]:
        groups = None if self.groups is None else zlib.crc32(repr(np.asarray(self.groups).tolist()).encode())
        return super()._settings() | {"groups": groups}

    def _check_settings(self) -> None:
        if self.n_iter <= self.n_burn_in and not (self.warm_start and self.__sklearn_is_fitted__()):
            raise ValueError(
                f"n_iter={self.n_iter} with n_burn_in={self.n_burn_in} leaves no draw to predict with, "
                "expected n_iter > n_burn_in; raise n_iter."
            )

    def _check_continued(self, rows: check.SparseRows, X: Any, what: str) -> None:
        super()._check_continued(rows, X, what)
        groups = check_groups(self.groups, rows.n_features)
        if groups is not None and not np.array_equal(groups, self.model_.chain.groups):
            raise ValueError(
                f"{what} continues a model with other groups; set them back, or fit anew with "
                "warm_start=False."
            )

    def _new_posterior(
        self,
        examples: Examples,
        columns: SparseColumns,
        meaning: dict[str, Any],
        groups: NDArray[np.int32] | None,
    ) -> Posterior:
        rows, n_factors, dtype = examples.rows, int(self.n_factors), np.dtype(self.dtype)
        if groups is None and meaning["encoder"] is not None:
            groups = check_groups(meaning["encoder"].fields_, rows.n_features)
        if groups is None:
            groups = columns.groups(columns.fields())
        classes = meaning.get("classes")
        chain = ChainState.new(
            1 if classes is None or len(classes) == 2 else len(classes),
            n_factors,
            groups,
            dtype,
            starting_std(rows, examples.weight, n_factors, self._task)
            if self.init_std is None
            else float(self.init_std),
            self._seed(),
        )
        n_to_keep = int(self.n_iter) - int(self.n_burn_in)
        thinning = -(-n_to_keep // int(self.n_kept_samples))
        return Posterior(chain, self._task, thinning=thinning, **meaning)

    def _threads(self, rows: check.SparseRows) -> int:
        return count_threads(self.n_jobs, rows.n_samples)


@saveable
@documented
class BayesianFMRegressor(RegressionTask, BayesianMachine):
    """Bayesian factorization machine for numeric targets, sampled by Gibbs (MCMC).

    The most accurate of the regressors on ratings: no learning rate and no strength of regularisation to set,
    since both noise and priors are learned, and predictions are averaged over the posterior. They come
    with a standard deviation and with intervals.

    {bayesian_parameters}

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from fmfast import BayesianFMRegressor
    >>> user, item = np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)
    >>> X = sp.csr_array(np.hstack([np.eye(20)[user], np.eye(20)[item]]))
    >>> y = 3.0 + (user % 2) * (item % 2)
    >>> fm = BayesianFMRegressor(n_factors=4, random_state=0).fit(X, y)
    >>> lower, upper = fm.predict_interval(X, coverage=0.9)
    >>> bool(np.mean((lower <= y) & (y <= upper)) > 0.9)
    True
    """

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> Self:
        """{bayesian_fit}
        sample_weight : array-like of shape (n_samples,) or None
            Non-negative; a sample of weight c counts like c samples.

        {bayesian_fit_end}
        """
        return self._fit(X, y, sample_weight, eval_set, resume_from)

    @overload
    def predict(self, X: Any, return_std: Literal[False] = False) -> NDArray[np.float64]: ...

    @overload
    def predict(
        self, X: Any, return_std: Literal[True]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...

    def predict(
        self, X: Any, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Posterior mean of the target, and its standard deviation.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation of a new target: that of the noise and of what is not known of
            the parameters.

        Returns
        -------
        mean : float64 ndarray of shape (n_samples,)
        std : float64 ndarray of shape (n_samples,)
            Only with return_std.

        {raises_of_predict}
        """
        rows = self._rows_to_score(X, "predict")
        mean, std = self.model_.mean_and_std(rows, self._threads(rows))
        return (mean, std) if return_std else mean

    def predict_interval(
        self, X: Any, coverage: float = 0.9
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Intervals that hold a new target with the given probability, with equal tails.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        coverage : float, default=0.9
            Between 0 and 1, both excluded.

        Returns
        -------
        lower, upper : float64 ndarray of shape (n_samples,)

        Raises
        ------
        ValueError
            For another coverage, or for rows that do not fit the model.
        """
        rows = self._rows_to_score(X, "predict_interval")
        if not is_number(coverage) or not 0.0 < coverage < 1.0:
            raise ValueError(
                f"coverage is {coverage!r}, expected a number between 0 and 1, both excluded; give for "
                "example 0.9."
            )
        return self.model_.interval(rows, float(coverage), self._threads(rows))

    @property
    def noise_std_(self) -> float:
        """Posterior mean of the standard deviation of the noise, in the units of the target."""
        model = self._fitted_model("noise_std_")
        return float(model.scale * np.mean([draw.alpha[0] ** -0.5 for draw in model.draws]))


@saveable
@documented
class BayesianFMClassifier(ClassificationTask, BayesianMachine):
    """Bayesian factorization machine for classes, sampled by Gibbs (MCMC) with the probit link.

    P(y = 1) = Phi(score), the distribution function of the normal distribution. More than two classes are
    learned one versus rest. No learning rate and no strength of regularisation to set; probabilities are
    averaged over the posterior. `fit` takes no sample weights: there is no such thing as half a latent
    variable.

    {bayesian_parameters}
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from fmfast import BayesianFMClassifier
    >>> X = np.array([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]] * 20)
    >>> y = np.array(["same", "other", "other", "same"] * 20)
    >>> fm = BayesianFMClassifier(n_factors=4, random_state=0).fit(X, y)
    >>> fm.predict(X[:4])
    array(['same', 'other', 'other', 'same'], dtype='<U5')
    """

    def fit(
        self,
        X: Any,
        y: ArrayLike,
        *,
        eval_set: tuple[Any, ArrayLike] | None = None,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> Self:
        """{bayesian_fit}

        {bayesian_fit_end}
        """
        return self._fit(X, y, None, eval_set, resume_from)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores Phi^-1(p), p being the probability of the second class, or of each class.

        Positive where p > 1/2. Finite for every probability.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        float64 ndarray of shape (n_samples,), or (n_samples, n_classes) with more than two classes

        {raises_of_predict}
        """
        rows = self._rows_to_score(X, "decision_function")
        p, _ = self.model_.probabilities(rows, self._threads(rows))
        scores = probit_scores(p)
        return scores[:, 1] if len(self.classes_) == 2 else scores

    @overload
    def predict_proba(self, X: Any, return_std: Literal[False] = False) -> NDArray[np.float64]: ...

    @overload
    def predict_proba(
        self, X: Any, return_std: Literal[True]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...

    def predict_proba(
        self, X: Any, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Posterior mean of the probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Also return the standard deviation of the probabilities over the posterior.

        Returns
        -------
        mean : float64 ndarray of shape (n_samples, n_classes)
            Every row sums to 1.
        std : float64 ndarray of shape (n_samples, n_classes)
            Only with return_std.

        {raises_of_predict}
        """
        rows = self._rows_to_score(X, "predict_proba")
        mean, std = self.model_.probabilities(rows, self._threads(rows))
        return (mean, std) if return_std else mean
