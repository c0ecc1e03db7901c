"""DaskFMRegressor and DaskFMClassifier: the local estimators, trained on a Dask cluster. No mathematics."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from fmfast import targets as check_y
from fmfast._docs import documented
from fmfast.checkpoint import Checkpoint
from fmfast.dask.fitting import Fit, validation_parts
from fmfast.dask.parts import current_client, is_distributed, parts_of, scattered
from fmfast.dask.prediction import computed, lazy_scores
from fmfast.estimators import FMClassifier, FMRegressor
from fmfast.machine import FactorizationMachine
from fmfast.metrics import r2_score
from fmfast.parameters import check_params
from fmfast.training import Stopping

_OWN = ("client", "merges_per_epoch")  # parameters that the local estimators do not have


def _with_own_parameters(init: Callable[..., Any]) -> Callable[..., Any]:
    """The constructor of the local estimators, with the parameters that belong to a cluster."""

    @functools.wraps(init)
    def __init__(
        self: Any, *args: Any, client: Any = None, merges_per_epoch: Any = None, **params: Any
    ) -> None:
        init(self, *args, **params)
        self.client = client
        self.merges_per_epoch = merges_per_epoch

    signature = inspect.signature(init)
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in _OWN]
    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *own]
    )
    return __init__


@documented
class OnDask(FactorizationMachine):
    """What both Dask estimators do otherwise than the local ones."""

    _local: type[FactorizationMachine]
    client: Any
    merges_per_epoch: int | None

    __init__ = _with_own_parameters(FactorizationMachine.__init__)

    # -- training --------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
        resume_from: str | os.PathLike[str] | None = None,
    ) -> Self:
        """{dask_fit}"""
        is_new = not (self.warm_start and self.__sklearn_is_fitted__())
        stopping = self._stopping()
        return self._fit(
            X, y, sample_weight, eval_set, stopping, "" if is_new else "warm_start=True", resume_from
        )

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Self:
        continues = "partial_fit" if self.__sklearn_is_fitted__() else ""
        return self._fit(X, y, sample_weight, None, Stopping(max_iter=1), continues, None, classes)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        eval_set: Any,
        stopping: Stopping,
        continues: str,
        resume_from: Any,
        classes: Any = None,
    ) -> Self:
        check_params(self)
        self._check_settings()
        if resume_from is not None or any(isinstance(f, Checkpoint) for f in self.callbacks or ()):
            raise ValueError(
                f"{type(self).__name__} is given a Checkpoint or resume_from, expected neither: on a cluster "
                f"a fit goes on when workers are lost; leave them out, or use {self._local.__name__}."
            )
        client = current_client(self.client)
        encoder = self.model_.encoder if continues else self.encoder
        if encoder is not None and is_distributed(X):
            raise ValueError(
                f"{type(self).__name__} has an encoder and X in parts, expected rows of numbers: an encoder "
                "is fitted on a table as a whole; fit it on a part of the data, and give parts of "
                "encoder.transform(...)."
            )
        if not is_distributed(X):
            X, encoder = self._encoded(X, bool(continues))
            if encoder is not None and eval_set is not None:
                eval_set = (encoder.transform(eval_set[0]), eval_set[1])
        parts = parts_of(X, y, sample_weight)
        validation = None if eval_set is None else validation_parts(eval_set)
        model = self.model_ if continues else None
        fit = Fit(self, self._plain(), client, model, self.merges_per_epoch)
        trained, history = fit.run(
            parts, validation, stopping, encoder=encoder, classes=classes, continues=continues
        )
        self._publish(trained, self.history_ + history if continues else history, len(history))
        self._sent: Any = None
        return self

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.solver == "als":
            raise ValueError(
                f"The parameter solver of {type(self).__name__} is 'als', expected 'adagrad', 'sgd' or "
                "'ftrl': least squares needs the columns of all rows in one place; use one of these, or "
                f"{self._local.__name__}."
            )

    # -- the local estimator -----------------------------------------------------------------------

    def _plain(self) -> Any:
        """A local estimator of the same settings, not fitted; callbacks stay here."""
        params = {name: value for name, value in self.get_params(deep=False).items() if name not in _OWN}
        if not (params["random_state"] is None or isinstance(params["random_state"], (int, np.integer))):
            params["random_state"] = None  # only the client draws from a generator
        return self._local(**(params | {"callbacks": None, "encoder": None, "scoring": "loss"}))

    def to_local(self) -> Any:
        """The fitted local estimator with the same parameters; nothing is copied.

        Returns
        -------
        FMRegressor or FMClassifier

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        self._fitted_model("to_local")
        params = {name: value for name, value in self.get_params(deep=False).items() if name not in _OWN}
        local = self._local(**params)
        local._publish(self.model_, self.history_, self.n_iter_)
        return local

    @classmethod
    def from_local(cls, local: FactorizationMachine, client: Any = None) -> Self:
        """A fitted estimator for the cluster from a fitted local one, such as `fmfast.load` returns.

        Parameters
        ----------
        local : FMRegressor or FMClassifier
        client : distributed.Client or None

        Returns
        -------
        DaskFMRegressor or DaskFMClassifier

        Raises
        ------
        NotFittedError, TypeError
            For an estimator that is not fitted, or not of the same task.
        """
        if type(local) is not cls._local:
            raise TypeError(
                f"from_local got a {type(local).__name__}, expected a {cls._local.__name__}; use the class "
                "for its task."
            )
        machine = cls(**local.get_params(deep=False), client=client)
        machine._publish(local._fitted_model("from_local"), local.history_, local.n_iter_)
        return machine

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted local estimator to one file, from which `fmfast.load` reads it; see its `save`.

        `load` returns an FMRegressor or FMClassifier, of which `from_local` makes one for the cluster.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        NotFittedError, ValueError, TypeError, OSError
            As `save` of the local estimator.
        """
        self.to_local().save(path)

    def __getstate__(self) -> dict[str, Any]:
        # A client is a connection, and means nothing elsewhere.
        return self.__dict__ | {"client": None, "_sent": None}

    def __sklearn_clone__(self) -> Self:
        return type(self)(**self.get_params(deep=False))  # with the same client, which nobody can copy

    # -- prediction --------------------------------------------------------------------------------

    def _lazy(self, X: Any, method: str) -> Any:
        """A Dask array of predictions."""
        self._fitted_model(method)
        client = current_client(self.client)
        sent = getattr(self, "_sent", None)
        if (
            sent is None
            or sent[0] is not self.model_
            or sent[1].client is not client
            or sent[1].status != "finished"
        ):
            plain = self._plain()
            plain._publish(self.model_, [], 0)
            future = scattered(client, plain)
            if len(client.nthreads()) > 1:
                client.replicate([future], n=2)
            self._sent = sent = (self.model_, future, plain)
        return lazy_scores(X, sent[2], sent[1], method)


@documented
class DaskFMRegressor(OnDask, FMRegressor):
    """FMRegressor on a Dask cluster: factorization machine for numeric targets.

    Every worker has the whole table of parameters, and trains it on its own rows with all of its threads.
    Several times in an epoch the workers average the rows of the table that they touched
    (`fmfast.averaging`). With one worker, one thread and one part the outcome is that of FMRegressor to the
    bit.

    {dask_parameters}

    Examples
    --------
    >>> import numpy as np
    >>> from distributed import Client
    >>> from fmfast.dask import DaskFMRegressor
    >>> client = Client(processes=False, dashboard_address=None)  # or the address of a scheduler
    >>> X, y = np.eye(6), np.arange(6.0)
    >>> fm = DaskFMRegressor(client=client, max_iter=3, random_state=0).fit(X, y)
    >>> fm.predict(X).shape
    (6,)
    >>> client.close()
    """

    _local = FMRegressor

    def predict(self, X: Any) -> Any:
        """Predicted targets.

        Parameters
        ----------
        X
            Anything that `fit` takes as X.

        Returns
        -------
        dask.array.Array of shape (n_samples,), float64
            Lazily, in blocks like those of X; of rows that are here an ndarray, as the local estimator.
        """
        return self._lazy(X, "predict") if is_distributed(X) else super().predict(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Coefficient of determination R^2 of the prediction.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`; y is not None.

        Returns
        -------
        float

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        if not is_distributed(X):
            return super().score(X, y, sample_weight)
        prediction = self.predict(X).compute()
        target = check_y.check_regression_target(computed(y), len(prediction), dtype=np.float64)
        given = None if sample_weight is None else computed(sample_weight)
        return r2_score(target, prediction, check_y.check_sample_weight(given, len(target)))


@documented
class DaskFMClassifier(OnDask, FMClassifier):
    """FMClassifier on a Dask cluster: factorization machine for classes.

    Every worker has the whole table of parameters, and trains it on its own rows with all of its threads.
    Several times in an epoch the workers average the rows of the table that they touched
    (`fmfast.averaging`). With one worker, one thread and one part the outcome is that of FMClassifier to the
    bit.

    {dask_parameters}
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    Examples
    --------
    >>> import numpy as np
    >>> from distributed import Client
    >>> from fmfast.dask import DaskFMClassifier
    >>> client = Client(processes=False, dashboard_address=None)  # or the address of a scheduler
    >>> X, y = np.eye(6), np.arange(6) > 2
    >>> fm = DaskFMClassifier(client=client, max_iter=3, random_state=0).fit(X, y)
    >>> fm.predict_proba(X).shape
    (6, 2)
    >>> client.close()
    """

    _local = FMClassifier

    def predict(self, X: Any) -> Any:
        """The most probable class of each row.

        Parameters
        ----------
        X
            Anything that `fit` takes as X.

        Returns
        -------
        dask.array.Array of shape (n_samples,), of the dtype of `classes_`
            Lazily, in blocks like those of X; of rows that are here an ndarray, as the local estimator.
        """
        return self._lazy(X, "predict") if is_distributed(X) else super().predict(X)

    def decision_function(self, X: Any) -> Any:
        """Raw scores: log-odds of the second class, or of each class against the rest; lazily as `predict`.

        Parameters
        ----------
        X
            As in `predict`.

        Returns
        -------
        dask array, or ndarray for rows that are here, of shape (n_samples,) or (n_samples, n_classes)

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        return self._lazy(X, "decision_function") if is_distributed(X) else super().decision_function(X)

    def predict_proba(self, X: Any) -> Any:
        """Probabilities of the classes, in the order of `classes_`; lazily as `predict`.

        Parameters
        ----------
        X
            Anything that `fit` takes as X.

        Returns
        -------
        dask.array.Array or float64 ndarray of shape (n_samples, n_classes)
        """
        return self._lazy(X, "predict_proba") if is_distributed(X) else super().predict_proba(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy of the prediction.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`; y is not None.

        Returns
        -------
        float

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        if not is_distributed(X):
            return super().score(X, y, sample_weight)
        prediction = self.predict(X).compute()
        labels = check_y.check_labels(computed(y), len(prediction))
        check_y.check_comparable(labels, self.classes_)
        given = None if sample_weight is None else computed(sample_weight)
        weight = check_y.check_sample_weight(given, len(labels))
        return float(np.average(prediction == labels, weights=weight if len(weight) else None))
