#!/usr/bin/env bash
# From a libsvm file to predictions without a line of Python, but for the data. Needs fmfast on the PATH.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python - <<'END'
from fmfast import text
from fmfast.datasets import load_chess_endgame

chess = load_chess_endgame("win")
text.dump("train.libsvm", chess.X_train, chess.y_train)
text.dump("test.libsvm.gz", chess.X_test, chess.y_test)
END

# Two distinct whole numbers as labels are classes.
fmfast train train.libsvm --validation test.libsvm.gz --early-stopping --max-iter 30 --random-state 0 \
    --checkpoint state --output model.fm --quiet
fmfast evaluate model.fm test.libsvm.gz
fmfast predict model.fm test.libsvm.gz --proba --output predictions.txt
head -n 2 predictions.txt
fmfast info model.fm
