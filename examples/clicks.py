"""Clicks from a stream: every batch tests the classifier first, and then teaches it."""

import numpy as np

from fmfast import FeatureEncoder, FMClassifier

SIZES = {"site": 60, "ad": 150, "hour": 24, "device": 4}
N_BATCHES, BATCH = 20, 2_000

rng = np.random.default_rng(0)
vectors = {name: rng.normal(size=(size, 3)) for name, size in SIZES.items()}


def next_batch():
    """A table of impressions, and whether each was clicked: it depends on the pair of site and ad."""
    table = {name: rng.integers(0, size, BATCH) for name, size in SIZES.items()}
    log_odds = -1.5 + (vectors["site"][table["site"]] * vectors["ad"][table["ad"]]).sum(axis=1)
    return table, rng.random(BATCH) < 1 / (1 + np.exp(-log_odds))


def log_loss(truth, p):
    return -np.mean(np.log(np.where(truth, p, 1 - p)))


# A hash gives every value a column at once, also those that come later.
encoder = FeatureEncoder(categorical=list(SIZES), hash_size=1 << 12)
fm = FMClassifier(8, encoder=encoder, random_state=0)

losses, constant = [], []
for number in range(N_BATCHES):
    table, clicked = next_batch()
    if number:
        losses.append(log_loss(clicked, fm.predict_proba(table)[:, 1]))
        constant.append(log_loss(clicked, np.full(BATCH, clicked.mean())))
    fm.partial_fit(table, clicked, classes=[False, True])

print("log loss on the next batch, before learning it")
for number in (0, 4, 9, N_BATCHES - 2):
    learned, rate_alone = losses[number], constant[number]
    print(f"  after {number + 1:2} batches {learned:.3f}   (the click rate alone: {rate_alone:.3f})")
