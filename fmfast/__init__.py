"""Factorization machines, fast, on an ordinary CPU.

score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                     (Rendle 2010)
"""

from importlib.metadata import version as _version

from fmfast.bayesian import BayesianFMClassifier, BayesianFMRegressor
from fmfast.config import show_config
from fmfast.estimators import FMClassifier, FMRegressor
from fmfast.exceptions import DataConversionWarning, DivergenceError, ModelFileError, NotFittedError
from fmfast.model import FMModel
from fmfast.modelfile import load

__version__ = _version("fmfast")

__all__ = [
    "BayesianFMClassifier",
    "BayesianFMRegressor",
    "DataConversionWarning",
    "DivergenceError",
    "FMClassifier",
    "FMModel",
    "FMRegressor",
    "ModelFileError",
    "NotFittedError",
    "load",
    "show_config",
]
