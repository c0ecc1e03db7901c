"""Regression and classification: what a target is, what a score is measured by. No mathematics."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmfast import targets as check_y
from fmfast.base import Machine
from fmfast.metrics import r2_score
from fmfast.model import scale_and_offset


class RegressionTask(Machine):
    """Numeric targets."""

    _kind = "regressor"
    _task = "regression"

    @abstractmethod
    def predict(self, X: Any) -> Any:
        """Predicted targets."""

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Coefficient of determination R^2 of the prediction: 1 is perfect, 0 as good as the mean.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            The true targets.
        sample_weight : array-like of shape (n_samples,) or None

        Returns
        -------
        float
        """
        prediction = self.predict(X)
        target = check_y.check_regression_target(y, len(prediction), dtype=np.float64)
        weight = check_y.check_sample_weight(sample_weight, len(target))
        return r2_score(target, prediction, weight)

    def _target(self, y: Any, n_samples: int, name: str = "y") -> NDArray[Any]:
        return check_y.check_regression_target(y, n_samples, dtype=self.dtype, name=name)

    def _meaning(self, target: NDArray[Any], weight: NDArray[Any], classes: Any) -> dict[str, Any]:
        scale, offset = scale_and_offset(target, weight)
        return {"scale": scale, "offset": offset}


class ClassificationTask(Machine):
    """Class labels; more than two are learned one versus rest."""

    _kind = "classifier"
    _task = "classification"
    classes_: NDArray[Any]

    @abstractmethod
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores: positive for the second class, or the highest for the most probable one."""

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable class of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), of the dtype of `classes_`

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError, TypeError
            For rows that cannot be used, or do not fit the model.
        """
        self._fitted_model("predict")
        raw = self.decision_function(X)
        labels: NDArray[Any] = self.classes_[
            (raw > 0).astype(np.intp) if raw.ndim == 1 else raw.argmax(axis=1)
        ]
        return labels

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of the prediction: the (weighted) share of correct classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            The true labels.
        sample_weight : array-like of shape (n_samples,) or None

        Returns
        -------
        float
        """
        prediction = self.predict(X)
        labels = check_y.check_labels(y, len(prediction))
        check_y.check_comparable(labels, self.classes_)
        weight = check_y.check_sample_weight(sample_weight, len(labels))
        return float(np.average(prediction == labels, weights=weight if len(weight) else None))

    def _target(self, y: Any, n_samples: int, name: str = "y") -> NDArray[Any]:
        return check_y.check_labels(y, n_samples, name)

    def _meaning(self, target: NDArray[Any], weight: NDArray[Any], classes: Any) -> dict[str, Any]:
        if classes is None:
            return {"classes": check_y.find_classes(target)}
        return {"classes": check_y.find_classes(check_y.check_labels(classes, None, "classes"), "classes")}

    def _check_same_classes(self, classes: Any) -> None:
        if classes is None:
            return
        given = check_y.find_classes(check_y.check_labels(classes, None, "classes"), "classes")
        if given.tolist() != self.classes_.tolist():
            raise ValueError(
                f"classes is {given.tolist()!r}, but the first call to partial_fit had "
                f"{self.classes_.tolist()!r}; leave it out, or fit anew."
            )
