"""Ways to move the parameters, one module each. No solver knows an estimator."""

from fmfast.solvers.sgd import SOLVERS, StochasticSolver

__all__ = ["SOLVERS", "StochasticSolver"]
