"""A pandas DataFrame goes in directly: categories, lists, numbers, values never seen, and explanations."""

import numpy as np
import pandas as pd

from fmfast import FeatureEncoder, FMRegressor

GENRES = ["crime", "scifi", "comedy", "drama"]

rng = np.random.default_rng(0)
n_ratings, n_users, n_films = 8_000, 2_000, 120
genres_of = [rng.choice(GENRES, size=rng.integers(1, 3), replace=False) for _ in range(n_films)]
age_of, likes = rng.integers(12, 80, n_users), rng.normal(size=(n_users, len(GENRES)))
user, film = rng.integers(0, n_users, n_ratings), rng.integers(0, n_films, n_ratings)
is_of = np.array([[genre in genres for genre in GENRES] for genres in genres_of])
liking = (likes[user] * is_of[film]).sum(axis=1) / is_of[film].sum(axis=1)
old_likes_crime = is_of[film, GENRES.index("crime")] & (age_of[user] > 50)
stars = 3 + 0.3 * liking + 1.5 * old_likes_crime + 0.3 * rng.normal(size=n_ratings)
table = pd.DataFrame(
    {
        "user": user,
        "film": [f"film {f}" for f in film],
        "genres": ["|".join(genres_of[f]) for f in film],
        "age": age_of[user],
    }
)

encoder = FeatureEncoder(
    categorical=["user", "film"],
    multi_valued=["genres"],  # "crime|drama" has two entries of 1/2
    numeric=["age"],
    numeric_encoding="bin",
    n_bins=5,
    min_count=3,  # what is rarer shares a column with what is new
)
train, test = table[:6_500], table[6_500:]
fm = FMRegressor(8, solver="als", reg_w=0.01, reg_V=0.03, max_iter=20, encoder=encoder, random_state=0)
fm.fit(train, stars[:6_500])
rmse = np.sqrt(np.mean((fm.predict(test) - stars[6_500:]) ** 2))
print(f"test RMSE {rmse:.2f}, {len(fm.model_.encoder.feature_names_)} features")

new = pd.DataFrame({"user": [-1, -1], "film": ["film 0", "film 0"], "genres": ["crime"] * 2, "age": [20, 70]})
young, old = fm.predict(new)
print(f"somebody new about a crime film: {young:.1f} stars at 20, {old:.1f} at 70")
print(fm.explain(new[1:]))
print(fm.top_interactions(3, between=("genres", "age")))
