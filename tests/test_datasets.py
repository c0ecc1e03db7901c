"""The embedded data: sizes, split, names, and what the rows mean."""

from __future__ import annotations

import numpy as np
import pytest

from fmfast.datasets import load_chess_endgame


@pytest.fixture(scope="module")
def chess():
    return load_chess_endgame()


def test_shapes_and_dtypes(chess):
    assert chess.X_train.shape == (20_218, 40)
    assert chess.X_test.shape == (5_042, 40)
    for X, y in ((chess.X_train, chess.y_train), (chess.X_test, chess.y_test)):
        assert X.dtype == np.float32
        assert X.indices.dtype == X.indptr.dtype == np.int32
        assert X.has_canonical_format
        assert (X.data == 1).all()
        assert y.shape == (X.shape[0],)
        assert y.dtype == np.float64
        assert (y.min(), y.max()) == (0, 16)


def test_every_row_has_one_column_of_each_field(chess):
    for X in (chess.X_train, chess.X_test):
        fields = chess.field[X.indices].reshape(-1, 6)
        assert (fields == np.arange(6)).all()


def test_names(chess):
    assert len(chess.feature_names) == len(chess.field) == 40
    assert len(set(chess.feature_names)) == 40
    assert chess.feature_names[2] == "white_king_file=c"
    for name, field in zip(chess.feature_names, chess.field, strict=True):
        assert name.startswith(chess.field_names[field] + "=")


def test_positions_are_distinct_and_within_the_board(chess):
    names = [chess.describe(chess.X_test[[i]]) for i in range(200)]
    assert len(set(names)) == 200
    assert names[0].startswith("white K")
    both = np.concatenate([X.indices.reshape(-1, 6) for X in (chess.X_train, chess.X_test)])
    assert len(np.unique(both, axis=0)) == len(both)


def test_known_mates(chess):
    """Depth 0 means that Black is mated: in check, no square to go to."""
    mates = {chess.describe(chess.X_train[[i]]) for i in np.flatnonzero(chess.y_train == 0)}
    mates |= {chess.describe(chess.X_test[[i]]) for i in np.flatnonzero(chess.y_test == 0)}
    assert len(mates) == 27
    assert "white Kc2 Ra4, black Ka2" in mates


def test_task_win():
    win, depth = load_chess_endgame("win"), load_chess_endgame("depth")
    assert win.X_train.shape == (22_445, 40)
    assert win.X_test.shape == (5_611, 40)
    assert win.y_train.dtype == np.int64
    assert win.y_train.sum() == 20_218
    assert win.y_test.sum() == 5_042
    assert (win.X_test[win.y_test == 1] != depth.X_test).nnz == 0


def test_attribution(chess):
    for part in ("Bain", "Hoff", "1994", "10.24432/C57W2S", "CC BY 4.0"):
        assert part in chess.attribution


def test_unknown_task():
    with pytest.raises(ValueError, match="task is 'moves'; expected one of"):
        load_chess_endgame("moves")
