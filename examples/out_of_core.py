"""From a text file to a data set on disk, trained in little memory, and resumed after a power cut."""

import tempfile
from pathlib import Path

import numpy as np

import fmfast
from fmfast import text
from fmfast.datasets import load_chess_endgame

chess = load_chess_endgame()


class PowerCut(Exception):
    """Plays what may happen at night."""


def cut_after(epoch):
    def callback(record):
        if record["epoch"] == epoch:
            raise PowerCut

    return callback


with tempfile.TemporaryDirectory() as directory:
    folder = Path(directory)
    text.dump(folder / "train.libsvm.gz", chess.X_train, chess.y_train)
    fmfast.convert(folder / "train.libsvm.gz", folder / "train.fmd")

    data = fmfast.open_dataset(folder / "train.fmd", memory=1 << 20)  # a megabyte beside the parameters
    print(data)

    def train(*callbacks, data=data):
        checkpoint = fmfast.Checkpoint(folder / "state")
        fm = fmfast.FMRegressor(8, max_iter=8, random_state=0, callbacks=[checkpoint, *callbacks])
        return fm.fit(data.X, data.y, resume_from=folder / "state")

    try:
        train(cut_after(3))
    except PowerCut:
        print("cut after 3 epochs;", len(list((folder / "state").iterdir())), "checkpoints are there")
    fm = train()
    whole = fmfast.FMRegressor(8, max_iter=8, random_state=0).fit(data.X, data.y)
    print("resumed, and the same bytes as without the cut:", np.array_equal(fm.V_, whole.V_))
    print(f"R^2 on the test positions: {fm.score(chess.X_test, chess.y_test):.2f}")
    del data  # lets go of the files before they are removed, which Windows wants
