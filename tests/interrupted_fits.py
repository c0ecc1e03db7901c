"""Fits that are broken off, for the tests of checkpoints."""

from __future__ import annotations

import os

import numpy as np
import pytest
import scipy.sparse as sp

from fmfast import (
    Checkpoint,
    FMRegressor,
)

rng = np.random.default_rng(0)
X = sp.random_array((300, 20), density=0.3, format="csr", rng=rng)
Y = X @ rng.normal(size=20) + 2.0 * rng.normal(size=300)
X_VALID, Y_VALID = X[:80] * 1.5, Y[:80] + 0.5
# Overfits at once, so that early stopping has a best epoch to go back to.
EARLY = {"early_stopping": True, "n_iter_no_change": 6, "reg_w": 0.0, "reg_V": 0.0}


class Killed(BaseException):
    pass


def kill_at(epoch):
    """A callback that breaks off a fit before the checkpoint of this epoch is written."""

    def callback(record):
        if next(iter(record.values())) == epoch:
            raise Killed

    return callback


def outcome(fm):
    """All bytes of what was learned, but for the seconds."""
    history = [{key: value for key, value in record.items() if key != "seconds"} for record in fm.history_]
    model = fm.model_
    if hasattr(model, "chain"):
        parts = [model.chain.table, *(draw.table for draw in model.draws)]
        others = [model.chain.alpha, model.chain.mean, model.chain.precision, [d.alpha for d in model.draws]]
        state = (model.chain.n_iterations, model.chain.seed, model.thinning)
    else:
        parts, others, state = [model.table], [], vars(model.training)
    numbers = [(table.rows.tobytes(), table.bias.tobytes()) for table in parts]
    numbers += [np.array(other).tobytes() for other in others]
    return numbers, repr(history), fm.n_iter_, repr(state), fm.predict(X).tobytes()


def names_in(directory):
    return sorted(os.listdir(directory))


def params_and_killed(directory, epoch=6, **more):
    """Settings, and checkpoints of a fit with them that was broken off."""
    params = {"random_state": 0, "max_iter": 9, **more}
    with pytest.raises(Killed):
        FMRegressor(callbacks=[Checkpoint(directory), kill_at(epoch)], **params).fit(X, Y)
    return params
