"""Estimators with an encoder: every table that they are given goes through it."""

from __future__ import annotations

import numpy as np
import pytest

import fmfast
from fmfast import BayesianFMRegressor, FeatureEncoder, FMClassifier, FMRegressor, cli

rng = np.random.default_rng(3)
TABLE = {"user": rng.integers(0, 9, 120).astype(str), "item": rng.integers(0, 7, 120).astype(str)}
RATING = rng.normal(size=9)[TABLE["user"].astype(int)] + rng.normal(size=7)[TABLE["item"].astype(int)]


def part(rows: slice) -> dict[str, np.ndarray]:
    return {name: column[rows] for name, column in TABLE.items()}


@pytest.mark.parametrize("cls", [FMRegressor, FMClassifier, BayesianFMRegressor])
def test_validation_data_is_encoded(cls):
    """It is the table's, not the encoder's own: fitted on the training rows alone."""
    seen, held = slice(0, 90), slice(90, 120)
    y = RATING > 0 if cls is FMClassifier else RATING
    settings = {"n_iter": 6, "n_burn_in": 2} if cls is BayesianFMRegressor else {"max_iter": 6}
    fm = cls(encoder=FeatureEncoder(), random_state=0, **settings)
    fm.fit(part(seen), y[seen], eval_set=(part(held), y[held]))
    encoder = FeatureEncoder().fit(part(seen))
    by_hand = cls(random_state=0, **settings)
    if cls is BayesianFMRegressor:
        by_hand.set_params(groups=encoder.fields_)
    by_hand.fit(encoder.transform(part(seen)), y[seen], eval_set=(encoder.transform(part(held)), y[held]))
    histories = [[record | {"seconds": 0.0} for record in fitted.history_] for fitted in (fm, by_hand)]
    assert any(name.startswith("validation") for name in histories[0][-1])
    assert histories[0] == histories[1]


def test_fields_are_the_groups_of_a_bayesian_machine():
    fm = BayesianFMRegressor(n_iter=4, n_burn_in=1, encoder=FeatureEncoder()).fit(TABLE, RATING)
    assert fm.groups_.tolist() == FeatureEncoder().fit(TABLE).fields_.tolist()
    assert set(fm.groups_.tolist()) == {0, 1}


def test_settings_of_the_encoder_are_settings_of_the_estimator():
    fm = FMRegressor(encoder=FeatureEncoder()).set_params(encoder__min_count=3, n_factors=2)
    assert fm.encoder.min_count == 3
    assert fm.n_factors == 2
    assert fm.get_params()["encoder__min_count"] == 3


def test_info_names_the_fields(tmp_path, capsys):
    path = tmp_path / "model.npz"
    FMRegressor(max_iter=1, encoder=FeatureEncoder()).fit(TABLE, RATING).save(path)
    assert cli.main(["info", str(path)]) in (0, None)
    assert "user, item" in capsys.readouterr().out


def test_an_encoder_of_other_rows_is_no_model(tmp_path):
    fm = FMRegressor(max_iter=1, encoder=FeatureEncoder()).fit(TABLE, RATING)
    fm.model_.encoder = FeatureEncoder().fit(TABLE | {"more": TABLE["user"]})
    path = tmp_path / "model.npz"
    fm.save(path)
    with pytest.raises(fmfast.ModelFileError, match="its encoder makes 28 features, its model has 18"):
        fmfast.load(path)
