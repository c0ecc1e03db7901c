"""Ranked lists: what to recommend to everybody, without what they know, and how good the lists are."""

import numpy as np
import scipy.sparse as sp

from fmfast import FeatureEncoder, FMClassifier, metrics, retrieval

N_USERS, N_ITEMS, N_GENRES, N_SHOWN = 400, 300, 12, 30_000

rng = np.random.default_rng(0)
genre = rng.integers(0, N_GENRES, N_ITEMS)
likes = rng.random((N_USERS, N_GENRES)) < 0.2
user, item = rng.integers(0, N_USERS, N_SHOWN), rng.integers(0, N_ITEMS, N_SHOWN)
bought = rng.random(N_SHOWN) < np.where(likes[user, genre[item]], 0.5, 0.03)

train = np.arange(N_SHOWN) < 24_000
encoder = FeatureEncoder(categorical=["user", "item", "genre"])
table = {"user": user, "item": item, "genre": genre[item]}
fm = FMClassifier(16, encoder=encoder, random_state=0)
fm.fit({name: column[train] for name, column in table.items()}, bought[train])


def pairs(which):
    """The pairs of user and item that were bought, as a matrix."""
    ones = np.ones(which.sum())
    return sp.csr_array((ones, (user[which], item[which])), shape=(N_USERS, N_ITEMS))


known, later = pairs(bought & train), pairs(bought & ~train)
users, items = {"user": np.arange(N_USERS)}, {"item": np.arange(N_ITEMS), "genre": genre}
best = retrieval.recommend(fm, users, items, n=10, exclude=known)
popular = np.argsort(-known.sum(axis=0), kind="stable")[:10]

of_popular = np.tile(popular, (N_USERS, 1))
for name, lists in (("factorization machine", best.items), ("what sells best", of_popular)):
    print(f"{name:22} recall@10 {metrics.average(metrics.recall_at(later, lists))}")
    print(f"{'':22} NDCG@10   {metrics.average(metrics.ndcg_at(later, lists))}")
print("user 0 likes the genres", np.flatnonzero(likes[0]), "and gets", genre[best.items[0]])
