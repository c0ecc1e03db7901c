"""The documentation that estimators share, so that each sentence stands in one place.

`documented` replaces {parameters} in the docstring of a class, and {fit}, {partial_fit}, ... in those of
its methods.
"""

from __future__ import annotations

import inspect

_PARAMETERS = """\
Parameters
----------
n_factors : int, default=16
    Length of the vector v_j of each feature; 0 gives a linear model.
solver : {"adagrad", "sgd", "ftrl", "als"}, default="adagrad"
    "adagrad" adapts the step of each feature to how often it was seen (Duchi, Hazan, Singer 2011; one
    accumulator for w_j and one for the whole v_j); "sgd" is plain stochastic gradient descent; "ftrl"
    (FTRL-Proximal, McMahan et al. 2013) adapts the step of each coordinate, and with l1_w leaves exact zeros
    in w; "als" (alternating least squares) finds the exact optimum of each feature given the others: no
    learning rate, and the same result for any n_jobs. It minimises the log loss of a classifier by quadratic
    bounds (Jaakkola, Jordan 2000).
max_iter : int, default=10
    Epochs (passes over the data).
learning_rate : float or None, default=None
    Step size. None: for "adagrad" 0.2 in a regressor and 0.5 in a classifier, for "ftrl" 0.1 and
    0.2, for "sgd" 0.01; lower where rows are long or values large: divided by n/10 if n > 10, and by
    (n/100)^2 if n > 1000, n being the mean over the rows of sum_j |x_ij| ("sgd": of sum_j x_ij^2).
learning_rate_decay : float or None, default=None
    Epoch t (from 0) uses learning_rate / (1 + learning_rate_decay * t). None: 0.02 for "sgd", 0 for
    "adagrad".
reg_w, reg_V : float or None, default=None
    Strength of the L2 penalties reg_w / 2 * w_j^2 and reg_V / 2 * |v_j|^2, which count once for every sample
    that contains feature j. None: 0.01 and 0.03 for a regressor, 1e-5 and 1e-5 for a classifier;
    for "als" 0.02 and 0.1, 1e-3 and 0.03, since it fits the training data more closely.
l1_w : float, default=0.0
    Strength of the L1 penalty l1_w * |w_j|, for "ftrl" only. Weights that are not worth it are exactly 0:
    `scipy.sparse.csr_array(fm.w_)` holds the others. The penalty counts once against all epochs together, so
    that more epochs leave fewer zeros.
init_std : float or None, default=None
    Standard deviation of the random numbers with which V starts. None: 0.02, and for "als" such that the
    pairwise terms have 1/8 of the target's variance (in a classifier, the variance 1).
early_stopping : bool, default=False
    Stop when the validation score has stopped improving, and keep the best epoch. The validation data is
    `eval_set` of `fit`, or, without one, a random part of the training data.
validation_fraction : float, default=0.1
    That part.
n_iter_no_change : int, default=5
    Epochs without improvement after which early stopping stops.
tol : float, default=0.0
    What the validation score must gain to count as improved. "als" also stops once an epoch has lowered the
    penalised loss by no more than this part of it.
scoring : "loss" or callable, default="loss"
    The validation score; higher is better. "loss": minus the mean squared error, or minus the log loss. A
    callable gets (y_true, prediction) of the validation data, where the prediction of a classifier is that of
    `predict_proba`, and returns a number.
n_jobs : int or None, default=None
    Threads for training and prediction: None is 1, -1 all cores. Several threads update shared parameters
    without locks, so that results then differ slightly from run to run; not so with "als".
random_state : int, numpy Generator or RandomState, or None, default=None
    Seed of V and of the order of the samples. With an int and one thread, equal calls give equal bytes.
warm_start : bool, default=False
    Let `fit` continue the previous fit for another `max_iter` epochs instead of starting anew.
callbacks : list of callables or None, default=None
    Each gets a copy of the record of every finished epoch (see `history_`); a true return value stops the fit
    after this epoch.
verbose : int, default=0
    1 prints a line per epoch.
dtype : {"float32", "float64"}, default="float32"
    What the parameters are stored and computed in.
encoder : FeatureEncoder or None, default=None
    Makes the sparse rows from tables: `fit`, `predict` and the others then take a DataFrame, or what else the
    encoder takes, as X. A copy of it is fitted with the model, and saved with it.

Attributes
----------
w0_ : float, or ndarray of shape (n_classes,) with more than two classes
w_ : ndarray of shape (n_features,) or (n_classes, n_features)
V_ : ndarray of shape (n_features, n_factors) or (n_classes, n_features, n_factors)
    The parameters, in the units of the target.
n_iter_ : int
    Epochs of the last `fit` or `partial_fit`.
history_ : list of dict
    One record per epoch since training began: "epoch" (from 1), "loss" (mean squared error or log loss over
    the training data, each sample's taken before its update; with "als" after the epoch),
    "validation_score" (None without validation data), "seconds" (of the updates alone).
model_ : FMModel
    The trained model with its parameter table.
n_features_in_ : int
feature_names_in_ : object ndarray of shape (n_features,)
    Only if X was a DataFrame with column names."""

_FIT = """Train on the rows of X.

Parameters
----------
X : {array-like, sparse matrix} of shape (n_samples, n_features)
    Any scipy sparse matrix or array, dense numbers, or a DataFrame of numbers. CSR in float32 or float64 is
    used as it is, without a copy, also over `numpy.memmap`.
y : array-like of shape (n_samples,)
sample_weight : array-like of shape (n_samples,) or None
    Non-negative; a weight multiplies the sample's loss and penalty.
eval_set : tuple (X, y) or None
    Validation data, scored after every epoch.
resume_from : str, path-like or None
    Directory of a `fmfast.Checkpoint`: go on from the last checkpoint in it, with the same settings and data
    (`n_jobs`, `verbose` and `callbacks` may differ). An empty or missing directory means a new start, so that
    the same call may be repeated until it succeeds. Of a damaged last checkpoint the one before it is taken,
    with a warning.

Returns
-------
self

Raises
------
ValueError, TypeError
    For settings or data that cannot be used, or are not those of the checkpoints; the estimator stays as
    it was.
ModelFileError
    If all checkpoints in `resume_from` are damaged.
DivergenceError
    If scores or parameters stop being finite; the estimator stays as it was."""

_PARTIAL_FIT = """One epoch over a batch of rows, continuing what was learned so far.

Parameters
----------
X : {array-like, sparse matrix} of shape (n_samples, n_features)
y : array-like of shape (n_samples,)"""

_PARTIAL_FIT_END = """\
sample_weight : array-like of shape (n_samples,) or None

Returns
-------
self

Raises
------
ValueError, TypeError, DivergenceError
    As `fit`; the estimator stays as it was."""

_RAISES_OF_PREDICT = """\
Raises
------
NotFittedError
    Before `fit`.
ValueError, TypeError
    For rows that cannot be used, or do not fit the model."""
_DASK_PARAMETERS = _PARAMETERS.replace(
    """
Attributes
""",
    """client : distributed.Client or None, default=None
    Of the cluster. None: the one that is current, as `distributed.get_client()` has it.
merges_per_epoch : int or None, default=None
    How often in an epoch the workers average what they have learned; more often is closer to one machine, and
    costs more time on the network. None: 2 times the number of workers in the first epoch (4 at least, 32 at
    most), then half as often in each epoch (2 times at least). A single worker has nothing to average.

Notes
-----
n_jobs=None means all threads that a worker has. solver="als", an encoder for X in parts, `Checkpoint` and
`resume_from` are not available.

Attributes
""",
)

_DASK_FIT = """Train on parts of data that lie on the workers, or on rows that are here.

Parameters
----------
X
    One of

    - a Dask array whose blocks are scipy CSR (or dense), with all columns in each block; a Dask DataFrame of
      numbers;
    - a list of Delayed or futures, one for each part: of X, or, with y=None, of tuples (X, y) or
      (X, y, sample_weight);
    - the path of a data set on disk (.fmd), or a list of them, which every worker can read, with y=None;
    - rows that are here, whatever the local estimator takes: they become one part.
y
    Dask array or Series, or a list of Delayed, in the same parts as X; or an array, if X is an array of known
    size.
sample_weight
    None, or like y.
eval_set : tuple (X, y) or None
    Validation data, scored after every epoch on the workers; X and y as above.
resume_from : None
    For the local estimators only.

Returns
-------
self

Raises
------
ValueError, TypeError
    For settings or data that cannot be used, with the part in which they stand; the estimator stays as it
    was.
RuntimeError
    If Dask cannot compute a part, or workers die of the same task again and again.
ConnectionError
    If the client loses its connection to the scheduler.
DivergenceError
    If scores or parameters stop being finite.

Notes
-----
Workers may be lost, and others may join, while it trains. Parts stay on their workers, unless some have
more than their share. No table passes through the scheduler."""

_BAYESIAN_PARAMETERS = """\
Parameters
----------
n_factors : int, default=16
    Length of the vector v_j of each feature; 0 gives a linear model.
n_iter : int, default=200
    Iterations of the Gibbs sampler. An iteration draws every parameter once.
n_burn_in : int, default=10
    First iterations of the chain, which are not used for predictions.
n_kept_samples : int, default=200
    Draws to keep at most, evenly spaced over the iterations after the burn-in. Predictions are averaged over
    them; a draw takes as much memory, and as much time to predict with, as one factorization machine.
groups : array-like of shape (n_features,) or None, default=None
    Group number of each column. A group has its own prior mean and variance of w and of each factor. None:
    the fields of one-hot data are found in X: consecutive columns of which every row has exactly one
    form a group, and so do the columns between such fields.
init_std : float or None, default=None
    Standard deviation of V before anything is known. For the first 30 iterations the prior of V is given, its
    variance growing to init_std^2 from an eighth of it; then it is learned. None: such that the pairwise
    terms of a regression have 1/8 of the target's variance, those of a classification the variance 1. With
    a much smaller one V may stay at zero.
n_jobs : int or None, default=None
    Threads for sampling and prediction: None is 1, -1 all cores. The result is the same to the bit for any
    number.
random_state : int, numpy Generator or RandomState, or None, default=None
    Seed of the chain. With an int, equal calls give equal bytes.
warm_start : bool, default=False
    Let `fit` continue the chain for another `n_iter` iterations, instead of starting anew.
callbacks : list of callables or None, default=None
    Each gets a copy of the record of every finished iteration (see `history_`); a true return value stops
    the fit, after the burn-in.
verbose : int, default=0
    1 prints a line per iteration.
dtype : {"float32", "float64"}, default="float32"
    What the parameters are stored and computed in.
encoder : FeatureEncoder or None, default=None
    Makes the sparse rows from tables: `fit`, `predict` and the others then take a DataFrame, or what else the
    encoder takes, as X. A copy of it is fitted with the model, and saved with it.

Attributes
----------
w0_ : float, or ndarray of shape (n_classes,) with more than two classes
w_ : ndarray of shape (n_features,) or (n_classes, n_features)
    Posterior means, in the units of the target.
groups_ : int32 ndarray of shape (n_features,)
n_kept_samples_ : int
    Draws that predictions are averaged over.
n_iter_ : int
    Iterations of the last `fit`.
history_ : list of dict
    One record per iteration since the chain began: "iteration" (from 1), "loss" (root mean squared error, or
    log loss, over the training data of the mean prediction of all iterations after the burn-in of this
    `fit`; during the burn-in, of the present draw), "validation_loss" (the same for `eval_set`, or None),
    "seconds".
model_ : Posterior
    The draws, and the state of the chain.
n_features_in_ : int
feature_names_in_ : object ndarray of shape (n_features,)
    Only if X was a DataFrame with column names."""

_BAYESIAN_FIT = """Draw from the posterior given the rows of X.

Parameters
----------
X : {array-like, sparse matrix} of shape (n_samples, n_features)
    Any scipy sparse matrix or array, dense numbers, or a DataFrame of numbers.
y : array-like of shape (n_samples,)"""

_BAYESIAN_FIT_END = """\
eval_set : tuple (X, y) or None
    Validation data, scored after every iteration.
resume_from : str, path-like or None
    Directory of a `fmfast.Checkpoint`: go on from the last checkpoint in it, with the same settings and data
    (`n_jobs`, `verbose` and `callbacks` may differ). An empty or missing directory means a new start, so that
    the same call may be repeated until it succeeds. Of a damaged last checkpoint the one before it is taken,
    with a warning.

Returns
-------
self

Raises
------
ValueError, TypeError
    For settings or data that cannot be used, or are not those of the checkpoints; the estimator stays as
    it was.
ModelFileError
    If all checkpoints in `resume_from` are damaged.
DivergenceError
    If the chain stops being finite; the estimator stays as it was."""

_PARTS = {
    "parameters": _PARAMETERS,
    "fit": _FIT,
    "partial_fit": _PARTIAL_FIT,
    "partial_fit_end": _PARTIAL_FIT_END,
    "raises_of_predict": _RAISES_OF_PREDICT,
    "dask_parameters": _DASK_PARAMETERS,
    "dask_fit": _DASK_FIT,
    "bayesian_parameters": _BAYESIAN_PARAMETERS,
    "bayesian_fit": _BAYESIAN_FIT,
    "bayesian_fit_end": _BAYESIAN_FIT_END,
}


def documented(cls: type) -> type:
    """Fill the shared parts into the docstrings of a class and of its methods."""
    _fill(cls)
    for member in vars(cls).values():
        if inspect.isfunction(inspect.unwrap(member)):
            _fill(inspect.unwrap(member))
    return cls


def _fill(documented_object: object) -> None:
    if documented_object.__doc__ is None:  # python -OO strips docstrings
        return
    text = inspect.cleandoc(documented_object.__doc__)
    for name, part in _PARTS.items():
        text = text.replace("{" + name + "}", part)
    documented_object.__doc__ = text
