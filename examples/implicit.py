"""What was chosen, and nothing else: FMRanker learns to rank, with the genres of items that are new."""

import numpy as np
import scipy.sparse as sp

from fmfast import FMRanker, metrics

N_USERS, N_ITEMS, N_GENRES = 600, 400, 12

rng = np.random.default_rng(0)
genre = rng.integers(0, N_GENRES, N_ITEMS)
likes = rng.random((N_USERS, N_GENRES)) < 0.2
chosen = rng.random((N_USERS, N_ITEMS)) < np.where(likes[:, genre], 0.3, 0.01)
is_test = chosen & (rng.random(chosen.shape) < 0.2)
train, test = sp.csr_array(chosen & ~is_test), sp.csr_array(is_test)

popular = np.argsort(-train.sum(axis=0), kind="stable")[:10]
of_popular = metrics.average(metrics.ndcg_at(test, np.tile(popular, (N_USERS, 1))))
print(f"what is chosen most  NDCG@10 {of_popular}")
for loss in ("bpr", "warp"):
    ranker = FMRanker(16, loss=loss, random_state=0).fit(train)
    print(f"{loss:20} NDCG@10 {ranker.score(test, exclude=train):.4f}")

# The last 40 items arrive later: nobody has chosen them yet, but their genres are known.
is_new = np.arange(N_ITEMS) >= N_ITEMS - 40
genres = sp.csr_array(np.eye(N_GENRES)[genre])
ids_and_genres = sp.hstack([sp.eye_array(N_ITEMS), genres], format="csr")
ranker = FMRanker(16, random_state=0).fit(
    sp.csr_array(chosen[:, ~is_new]), item_features=ids_and_genres[~is_new]
)
lists = ranker.recommend(n=5, item_features=ids_and_genres[is_new])
hits = metrics.average(metrics.precision_at(sp.csr_array(chosen[:, is_new]), lists.items))
print(f"new items            precision@5 {hits}, at random {chosen[:, is_new].mean():.4f}")
print(ranker.explain(0, ids_and_genres[is_new][[lists.items[0, 0]]]))
