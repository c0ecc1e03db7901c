"""Factorization machines, fast, on an ordinary CPU.

score(x) = w0 + sum_j w_j x_j + sum_{j<l} <v_j, v_l> x_j x_l                     (Rendle 2010)
"""

from importlib.metadata import version as _version

from fmfast import libfm, metrics, plot, retrieval, text
from fmfast._convert import convert
from fmfast.bayesian import BayesianFMClassifier, BayesianFMRegressor
from fmfast.checkpoint import Checkpoint
from fmfast.config import show_config
from fmfast.encoder import FeatureEncoder
from fmfast.estimators import FMClassifier, FMRegressor
from fmfast.exceptions import (
    DataConversionWarning,
    DatasetError,
    DivergenceError,
    ModelFileError,
    NotFittedError,
    TextFormatError,
)
from fmfast.model import FMModel
from fmfast.modelfile import load
from fmfast.ranking import FMRanker
from fmfast.store import Dataset, open_dataset

__version__ = _version("fmfast")

__all__ = [
    "BayesianFMClassifier",
    "BayesianFMRegressor",
    "Checkpoint",
    "DataConversionWarning",
    "Dataset",
    "DatasetError",
    "DivergenceError",
    "FMClassifier",
    "FMModel",
    "FMRanker",
    "FMRegressor",
    "FeatureEncoder",
    "ModelFileError",
    "NotFittedError",
    "TextFormatError",
    "convert",
    "libfm",
    "load",
    "metrics",
    "open_dataset",
    "plot",
    "retrieval",
    "show_config",
    "text",
]
