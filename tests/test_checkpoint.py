"""A fit that is broken off and resumed ends with the bytes of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.sparse as sp
from interrupted_fits import EARLY, X_VALID, Y_VALID, Killed, X, Y, kill_at, names_in, outcome
from problems import CASES, IDS, posix_only, quantile_classes

import fmfast
from fmfast import (
    BayesianFMClassifier,
    BayesianFMRegressor,
    Checkpoint,
    FMRegressor,
)

# -- in one process, at every epoch --------------------------------------------------------------


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
@pytest.mark.parametrize("solver", ["adagrad", "sgd", "ftrl", "als"])
@pytest.mark.parametrize("early", [{}, EARLY], ids=["", "early stopping"])
@pytest.mark.parametrize("has_eval_set", [False, True], ids=["", "eval_set"])
def test_a_broken_off_fit_ends_with_the_same_bytes(tmp_path, cls, n_classes, solver, early, has_eval_set):
    params = {"solver": solver, "random_state": 3, "max_iter": 20, **early}
    y, y_valid = (quantile_classes(target, n_classes, of=Y) for target in (Y, Y_VALID))
    data = {"X": X, "y": y, "eval_set": (X_VALID, y_valid) if has_eval_set else None}
    undisturbed = cls(**params).fit(**data)
    every = Checkpoint(tmp_path, every=2)
    for epoch in (1, 2, 8, 17, 18):  # als computes residuals from scratch in epoch 17
        if epoch > undisturbed.n_iter_:
            break
        fm = cls(callbacks=[every, kill_at(epoch)], **params)
        with pytest.raises(Killed):
            fm.fit(**data, resume_from=tmp_path)
        assert not hasattr(fm, "model_")
        assert len(names_in(tmp_path)) == min((epoch - 1) // 2, 2)
    finished = cls(callbacks=[every], **params).fit(**data, resume_from=tmp_path)
    assert outcome(finished) == outcome(undisturbed)
    assert names_in(tmp_path)[-1].endswith("-final.fm")
    # What has come to its end is not trained further.
    before = names_in(tmp_path)
    assert outcome(cls(callbacks=[every], **params).fit(**data, resume_from=tmp_path)) == outcome(undisturbed)
    assert names_in(tmp_path) == before


def test_early_stopping_goes_back_to_an_epoch_before_the_interruption(tmp_path):
    params = {"random_state": 0, "max_iter": 50, "learning_rate": 1.0, **EARLY}
    undisturbed = FMRegressor(**params).fit(X, Y)
    best = int(np.argmax([record["validation_score"] for record in undisturbed.history_])) + 1
    assert best + 6 == undisturbed.n_iter_ < 50
    with pytest.raises(Killed):
        FMRegressor(callbacks=[Checkpoint(tmp_path), kill_at(best + 4)], **params).fit(X, Y)
    assert outcome(FMRegressor(**params).fit(X, Y, resume_from=tmp_path)) == outcome(undisturbed)


@pytest.mark.parametrize(("cls", "n_classes"), CASES, ids=IDS)
def test_bayesian_machines(tmp_path, cls, n_classes):
    cls = BayesianFMRegressor if cls is FMRegressor else BayesianFMClassifier
    params = {"n_factors": 3, "n_iter": 24, "n_burn_in": 3, "n_kept_samples": 5, "random_state": 1}
    y, y_valid = (quantile_classes(target, n_classes, of=Y) for target in (Y, Y_VALID))
    data = {"X": X, "y": y, "eval_set": (X_VALID, y_valid)}
    undisturbed = cls(**params).fit(**data)
    for iteration in (3, 6, 13, 18, 23):
        with pytest.raises(Killed):
            cls(callbacks=[Checkpoint(tmp_path, every=2), kill_at(iteration)], **params).fit(
                **data, resume_from=tmp_path
            )
        assert len(names_in(tmp_path)) == (0 if iteration == 3 else min((iteration - 1) // 2 - 1, 2))
    assert outcome(cls(**params).fit(**data, resume_from=tmp_path)) == outcome(undisturbed)
    with pytest.raises(ValueError, match="n_burn_in=3, but n_burn_in is now 4"):
        cls(**params | {"n_burn_in": 4}).fit(**data, resume_from=tmp_path)
    with pytest.raises(ValueError, match="of a fit with groups=None, but groups is now"):
        cls(**params, groups=np.zeros(20, int)).fit(**data, resume_from=tmp_path)


@pytest.mark.parametrize("make_state", [lambda: None, lambda: np.random.default_rng(9)], ids=["None", "rng"])
def test_the_seed_is_in_the_checkpoint(tmp_path, make_state):
    fm = FMRegressor(random_state=make_state(), max_iter=8, callbacks=[Checkpoint(tmp_path), kill_at(5)])
    with pytest.raises(Killed):
        fm.fit(X, Y)
    seed = fmfast.load(tmp_path / names_in(tmp_path)[-1]).model_.training.seed
    state = make_state()
    resumed = FMRegressor(random_state=state, max_iter=8).fit(X, Y, resume_from=tmp_path)
    assert resumed.model_.training.seed == seed
    fresh = FMRegressor(random_state=seed, max_iter=8).fit(X, Y)
    assert outcome(resumed) == outcome(fresh)
    if state is not None:  # the generator gave one seed, as to a fit without interruption
        expected = make_state()
        expected.integers(0, 2**63 - 1)
        assert state.bit_generator.state == expected.bit_generator.state


def test_a_warm_start_that_is_broken_off(tmp_path):
    def base():
        return FMRegressor(random_state=0, max_iter=4).fit(X, Y).set_params(warm_start=True, max_iter=6)

    undisturbed = base().fit(X, Y)
    fm = base().set_params(callbacks=[Checkpoint(tmp_path), kill_at(8)])
    before = outcome(fm)
    with pytest.raises(Killed):
        fm.fit(X, Y)
    assert outcome(fm) == before
    fm.set_params(callbacks=None).fit(X, Y, resume_from=tmp_path)
    assert outcome(fm) == outcome(undisturbed)
    assert fm.n_iter_ == 6
    with pytest.raises(ValueError, match="began after 4 epochs, but this one begins after 0;"):
        FMRegressor(random_state=0, max_iter=6, warm_start=True).fit(X, Y, resume_from=tmp_path)


def test_a_callback_that_stopped_the_fit_has_stopped_it_for_good(tmp_path):
    params = {"random_state": 0, "max_iter": 9}
    stopping = [Checkpoint(tmp_path), lambda record: record["epoch"] == 3]
    stopped = FMRegressor(callbacks=stopping, **params).fit(X, Y)
    assert stopped.n_iter_ == 3
    assert outcome(FMRegressor(**params).fit(X, Y, resume_from=tmp_path)) == outcome(stopped)


def test_several_threads_of_als(tmp_path):
    many = sp.csr_array(sp.vstack([X] * 5)), np.tile(Y, 5)
    params = {"solver": "als", "random_state": 0, "max_iter": 7}
    undisturbed = FMRegressor(**params).fit(*many)
    with pytest.raises(Killed):
        FMRegressor(n_jobs=2, callbacks=[Checkpoint(tmp_path), kill_at(4)], **params).fit(*many)
    resumed = FMRegressor(n_jobs=3, verbose=0, **params).fit(*many, resume_from=tmp_path)
    assert outcome(resumed) == outcome(undisturbed)


# -- killed ------------------------------------------------------------------------------------

HARNESS = """
import json, os, random, shutil, signal, sys, tempfile, time, warnings
from interrupted_fits import EARLY, X, X_VALID, Y, Y_VALID, outcome
from fmfast import Checkpoint, FMRegressor

solver, early, eval_set, at_replace = json.loads(sys.argv[1])
params = {"solver": solver, "random_state": 3, "max_iter": 30, **(EARLY if early else {})}
data = {"X": X, "y": Y, "eval_set": (X_VALID, Y_VALID) if eval_set else None}
undisturbed = outcome(FMRegressor(**params).fit(**data))
random.seed(solver + str(early))


def fit(directory):
    return FMRegressor(callbacks=[Checkpoint(directory)], **params).fit(**data, resume_from=directory)


def child(directory, call):
    # In the child: 0 if the outcome is right.
    try:
        if call:
            real, calls = os.replace, []

            def replace(*names):
                calls.append(names)
                if len(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(*names)

            os.replace = replace
        os._exit(0 if outcome(fit(directory)) == undisturbed else 1)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(2)


def run(directory, call=0, delay=None):
    pid = os.fork()
    if pid == 0:
        child(directory, call)
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


root = tempfile.mkdtemp()
started = time.perf_counter()
fit(os.path.join(root, "first"))
duration = time.perf_counter() - started
n_killed = 0
for number in range(100):
    directory = os.path.join(root, str(number))
    for attempt in range(200):
        # Mostly long enough to get on; the last attempts are left alone.
        if at_replace:
            code = run(directory, call=random.randint(1, 6) if attempt < 6 else 0)
        else:
            code = run(directory, delay=random.uniform(0, 0.6) * duration if attempt < 6 else None)
        assert code in (0, -signal.SIGKILL), code
        n_killed += code == -signal.SIGKILL
        if code == 0:
            break
    else:
        raise AssertionError("it never came to its end")
    assert not [name for name in os.listdir(directory) if name.endswith(".tmp")]
    if n_killed >= 5:
        break
shutil.rmtree(root)
print(n_killed)
"""


@posix_only
@pytest.mark.parametrize(
    ("solver", "early", "eval_set", "at_replace"),
    [
        ("adagrad", False, True, False),
        ("adagrad", True, False, False),
        ("sgd", True, True, False),
        ("ftrl", False, False, False),
        ("als", True, False, False),
        ("adagrad", True, True, True),
    ],
    ids=["adagrad", "adagrad early", "sgd early eval_set", "ftrl", "als early", "just before the rename"],
)
def test_killed_at_random_moments(solver, early, eval_set, at_replace):
    arguments = f'["{solver}", {str(early).lower()}, {str(eval_set).lower()}, {str(at_replace).lower()}]'
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(
            [os.path.dirname(__file__), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
    }
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HARNESS), arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) >= 5  # six times: 30 in all
