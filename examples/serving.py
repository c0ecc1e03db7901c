"""Serving: load once, answer small requests; a nearest-neighbour engine on the vectors, if faiss is there."""

import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

import fmfast
from fmfast import retrieval

N_USERS, N_ITEMS, N_ROWS = 2_000, 5_000, 60_000

rng = np.random.default_rng(0)
user, item = rng.integers(0, N_USERS, N_ROWS), rng.integers(0, N_ITEMS, N_ROWS)
rating = (rng.normal(size=(N_USERS, 4))[user] * rng.normal(size=(N_ITEMS, 4))[item]).sum(axis=1)
columns = np.stack([user, N_USERS + item], axis=1).ravel()
ones = np.ones(2 * N_ROWS, dtype=np.float32)
X = sp.csr_array((ones, columns, np.arange(0, 2 * N_ROWS + 1, 2)), shape=(N_ROWS, N_USERS + N_ITEMS))

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "model.npz"
    fmfast.FMRegressor(16, random_state=0).fit(X, rating).save(path)
    fm = fmfast.load(path)  # what a server does when it starts

# One row per request. CSR in float32, sorted, is used as it is.
requests = [X[[i]] for i in range(200)]
started = time.perf_counter()
answers = [fm.predict(request)[0] for request in requests]
seconds = time.perf_counter() - started
print(f"one row at a time: {seconds / len(requests) * 1e6:.0f} microseconds each")
assert np.array_equal(answers, fm.predict(X[:200]))

# All items for one user: the vectors of the items are there before the request comes.
items = sp.eye_array(N_ITEMS, N_USERS + N_ITEMS, k=N_USERS, format="csr", dtype=np.float32)
users = sp.eye_array(N_USERS, N_USERS + N_ITEMS, format="csr", dtype=np.float32)
found = retrieval.vectors(fm, users, items)
exact = retrieval.top_n(found, 10)
print("the best items of user 0:", exact.items[0])

try:
    import faiss
except ImportError:
    print('faiss is not installed (pip install "fmfast[retrieval]"): no engine was tried')
else:
    index = faiss.IndexHNSWFlat(found.P.shape[1], 32, faiss.METRIC_INNER_PRODUCT)  # approximate, for millions
    index.add(found.P)
    index.hnsw.efSearch = 128
    _, numbers = index.search(found.Q, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(numbers, exact.items, strict=True)])
    print(f"faiss HNSW finds {recall:.1%} of the exact lists")
