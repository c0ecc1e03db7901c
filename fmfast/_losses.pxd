# cython: language_level=3
"""Losses of one sample and their derivatives, shared by every kernel.

A loss is a function of the raw score (the output of the factorization machine before any link) and
the target; `dloss` is its derivative with respect to the score. To add a loss: one pair of inline
functions here, one code in `Loss`, one branch in `loss_value` and in `loss_derivative`, and its
NumPy twin in `fmfast/numpy_baseline.py`.

    squared    1/2 (score - y)^2                       dloss = score - y
    logistic   log(1 + exp(score)) - y score           dloss = 1 / (1 + exp(-score)) - y,   y in [0, 1]

Why they are written as they are:
- `exp` is only ever called with a non-positive argument, so that nothing overflows: both losses are
  finite and correct to rounding for |score| up to 1e4 and far beyond.
- log1p(exp(-|score|)) keeps the digits that log(1 + exp(.)) loses when exp(.) is small.
- Everything is double: a loss is evaluated once per sample, against n_factors * nnz operations for
  its score, so precision is free here. The squared loss has the factor 1/2 that makes its
  derivative the plain residual; whoever reports a mean squared error multiplies by two.
"""
from libc.math cimport exp, fabs, log1p


cdef enum Loss:
    SQUARED = 0
    LOGISTIC = 1


cdef inline double squared_loss(double score, double y) noexcept nogil:
    return 0.5 * (score - y) * (score - y)


cdef inline double squared_dloss(double score, double y) noexcept nogil:
    return score - y


cdef inline double logistic_loss(double score, double y) noexcept nogil:
    # log(1 + exp(score)) = max(score, 0) + log1p(exp(-|score|))
    cdef double positive_part = score if score > 0.0 else 0.0
    return positive_part - y * score + log1p(exp(-fabs(score)))


cdef inline double logistic_dloss(double score, double y) noexcept nogil:
    cdef double e = exp(-fabs(score))
    return (1.0 / (1.0 + e) if score >= 0.0 else e / (1.0 + e)) - y


cdef inline double loss_value(Loss loss, double score, double y) noexcept nogil:
    """Loss of one sample. The branch is the same for a whole epoch, so the CPU predicts it."""
    if loss == LOGISTIC:
        return logistic_loss(score, y)
    return squared_loss(score, y)


cdef inline double loss_derivative(Loss loss, double score, double y) noexcept nogil:
    """d loss / d score of one sample."""
    if loss == LOGISTIC:
        return logistic_dloss(score, y)
    return squared_dloss(score, y)
