"""FMRegressor and FMClassifier: the surface of fmfast. No mathematics."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast._docs import documented
from fmfast.machine import FactorizationMachine, learns_in_batches
from fmfast.modelfile import saveable
from fmfast.parameters import available_if
from fmfast.tasks import ClassificationTask, RegressionTask
from fmfast.training import class_probabilities


@saveable
@documented
class FMRegressor(RegressionTask, FactorizationMachine):
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

    @available_if(learns_in_batches)
    def partial_fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """{partial_fit}
        {partial_fit_end}

        Notes
        -----
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

        {raises_of_predict}
        """
        return self._raw_scores(X, "predict")

    @classmethod
    def from_arrays(
        cls,
        w0: float,
        w: ArrayLike,
        V: ArrayLike,
        *,
        feature_names: ArrayLike | None = None,
        **params: Any,
    ) -> Self:
        """A fitted regressor with given parameters, wherever they come from.

        It predicts and can be saved. It cannot be trained further, since parameters alone do not say where a
        solver stood: `partial_fit` and `warm_start` refuse.

        Parameters
        ----------
        w0 : float
        w : array-like of shape (n_features,)
        V : array-like of shape (n_features, n_factors)
            score(x) = w0 + <w, x> + sum_{j<l} <v_j, v_l> x_j x_l is the prediction.
        feature_names : array-like of str of shape (n_features,) or None
        **params
            Constructor arguments but n_factors. Unless dtype is one of them, it is "float32" if both w and V
            have it, else "float64".

        Returns
        -------
        FMRegressor

        Raises
        ------
        ValueError, TypeError
            For shapes that do not fit together, numbers that are not finite in dtype.

        Examples
        --------
        >>> from fmfast import FMRegressor
        >>> FMRegressor.from_arrays(1.0, [2.0, 3.0], [[1.0], [0.5]]).predict([[1.0, 1.0]])
        array([6.5])
        """
        return cls._from_arrays(w0, w, V, None, feature_names, params)


@saveable
@documented
class FMClassifier(ClassificationTask, FactorizationMachine):
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

    @available_if(learns_in_batches)
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """{partial_fit}
        classes : array-like of shape (n_classes,) or None
            Every class that may ever occur: needed at the first call, may be left out later.
        {partial_fit_end}
        """
        if classes is None and not self.__sklearn_is_fitted__():
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

        {raises_of_predict}
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

        {raises_of_predict}
        """
        return class_probabilities(self._raw_scores(X, "predict_proba"))

    @classmethod
    def from_arrays(
        cls,
        w0: ArrayLike,
        w: ArrayLike,
        V: ArrayLike,
        classes: ArrayLike,
        *,
        feature_names: ArrayLike | None = None,
        **params: Any,
    ) -> Self:
        """A fitted classifier with given parameters, wherever they come from.

        It predicts and can be saved. It cannot be trained further, since parameters alone do not say where a
        solver stood: `partial_fit` and `warm_start` refuse.

        Parameters
        ----------
        w0 : float, or array-like of shape (n_classes,) with more than two classes
        w : array-like of shape (n_features,) or (n_classes, n_features)
        V : array-like of shape (n_features, n_factors) or (n_classes, n_features, n_factors)
            score(x) = w0 + <w, x> + sum_{j<l} <v_j, v_l> x_j x_l is the log-odds of the second class,
            or of each class against the rest.
        classes : array-like of shape (n_classes,)
            The labels, ascending.
        feature_names : array-like of str of shape (n_features,) or None
        **params
            Constructor arguments but n_factors. Unless dtype is one of them, it is "float32" if both w and V
            have it, else "float64".

        Returns
        -------
        FMClassifier

        Raises
        ------
        ValueError, TypeError
            For shapes that do not fit together, numbers that are not finite in dtype, or classes that are not
            ascending.

        Examples
        --------
        >>> from fmfast import FMClassifier
        >>> fm = FMClassifier.from_arrays(-1.0, [2.0, 3.0], [[1.0], [0.5]], ["no", "yes"])
        >>> fm.predict([[1.0, 1.0], [0.0, 0.0]])
        array(['yes', 'no'], dtype='<U3')
        """
        return cls._from_arrays(w0, w, V, classes, feature_names, params)
