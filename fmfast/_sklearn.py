"""The only room that names scikit-learn, and never the first to import it.

Estimators follow scikit-learn's contract without inheriting from it. What the contract demands of
scikit-learn's own types (tags, exception classes) is looked up here, when it is asked for: whoever
asks has already imported scikit-learn.
"""

from __future__ import annotations

import sys
from typing import Any

from fmfast import exceptions


def _loaded(module: str, name: str, otherwise: type) -> type:
    """A class of scikit-learn if that module is already imported, else our own namesake."""
    return getattr(sys.modules.get(module), name, otherwise)


def not_fitted_error() -> type[Exception]:
    """The exception for estimators that are not fitted."""
    return _loaded("sklearn.exceptions", "NotFittedError", exceptions.NotFittedError)


def conversion_warning() -> type[Warning]:
    """The warning for a column vector where a 1d array was expected."""
    return _loaded("sklearn.exceptions", "DataConversionWarning", exceptions.DataConversionWarning)


def estimator_tags(kind: str) -> Any:
    """scikit-learn's description: "regressor", "classifier", "transformer" (of tables) or "ranker"."""
    from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags, TransformerTags

    if kind == "transformer":  # of tables
        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(categorical=True, string=True, allow_nan=True),
        )
    if kind == "ranker":  # of interactions
        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            input_tags=InputTags(sparse=True, positive_only=True),
        )
    return Tags(
        estimator_type=kind,
        target_tags=TargetTags(required=True),
        classifier_tags=ClassifierTags() if kind == "classifier" else None,
        regressor_tags=RegressorTags() if kind == "regressor" else None,
        input_tags=InputTags(sparse=True),
    )
