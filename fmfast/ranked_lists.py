"""What a fitted ranker is for: lists, vectors, scores and explanations of pairs. No mathematics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from fmfast import explain as explaining
from fmfast import interactions as given
from fmfast import ranking_metrics, retrieval
from fmfast import validation as check
from fmfast._selection import exact_dots
from fmfast.base import Learner
from fmfast.parameters import check_param, check_params
from fmfast.ranking_model import RankingModel, is_identity, pair_row
from fmfast.validation import SparseRows

_METRICS = {"ndcg": ranking_metrics.ndcg_at, "recall": ranking_metrics.recall_at}


class RankedLists(Learner):
    """Reads a `RankingModel`; `FMRanker` trains it."""

    model_: RankingModel

    # Of the constructor.
    k: int
    metric: str
    n_jobs: int | None

    def recommend(
        self,
        contexts: Any = None,
        n: int = 10,
        exclude: Any = None,
        candidates: ArrayLike | None = None,
        *,
        item_features: Any = None,
    ) -> retrieval.Recommendations:
        """The n items with the highest scores for each context, exactly.

        Parameters
        ----------
        contexts : array-like of int, {array-like, sparse matrix} of shape (n, n_context_features), or None
            Numbers of contexts of the last `fit`, or rows of others with the same columns. None: all.
        n : int, default=10
            Length of the lists.
        exclude : {array-like, sparse matrix} of shape (n_contexts, n_items) or None
            Pairs that are not wanted, for example `interactions`: all whose value is not 0. It has a row for
            each context of the last `fit`, whichever are asked for; or, where contexts are given by rows, one
            for each of these.
        candidates : array-like of int or None, default=None
            The items that may be recommended, by number. None: all.
        item_features : {array-like, sparse matrix} of shape (n_items, n_item_features) or None
            Other items with the same columns, instead of those of the last `fit`.

        Returns
        -------
        Recommendations
            items and scores, both of shape (number of contexts, n), best first. Of equal scores, the lower
            item number comes first. Where fewer than n items are left, the list ends with -1 and -inf.

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        model = self._fitted_model("recommend")
        check_param(self, "n_jobs")
        numbers, rows = self._contexts(model, contexts)
        items = self._items(model, item_features)
        if exclude is not None and numbers is not None:
            shape = (model.contexts.n_samples, items.n_samples)
            exclude = given.check_entries(exclude, "exclude", shape)[numbers]
        found = retrieval.vectors_of(model, rows, items)
        return retrieval.top_n(found, n, exclude=exclude, candidates=candidates, n_jobs=self.n_jobs)

    def vectors(self, contexts: Any = None, item_features: Any = None) -> retrieval.Vectors:
        """Vectors of contexts and items whose inner products are the scores; see `retrieval.vectors`.

        Parameters
        ----------
        contexts, item_features
            As for `recommend`.

        Returns
        -------
        retrieval.Vectors
            float32: Q (n, n_factors + 1), P (n_items, n_factors + 1), const (n,).

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        model = self._fitted_model("vectors")
        _, rows = self._contexts(model, contexts)
        return retrieval.in_float32(retrieval.vectors_of(model, rows, self._items(model, item_features)))

    def predict(self, contexts: ArrayLike, items: ArrayLike) -> NDArray[np.float64]:
        """Scores of pairs.

        Parameters
        ----------
        contexts, items : array-like of int of shape (n,)
            Numbers of contexts and of items of the last `fit`.

        Returns
        -------
        float64 ndarray of shape (n,)
            Comparable within a context; they are no probabilities.

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        model = self._fitted_model("predict")
        c = given.check_numbers(contexts, model.contexts.n_samples, "contexts")
        i = given.check_numbers(items, model.items.n_samples, "items")
        if len(c) != len(i):
            raise ValueError(
                f"contexts has {len(c)} numbers and items {len(i)}, expected as many; give one item for each "
                "context, repeating either."
            )
        of_context, place_c = np.unique(c, return_inverse=True)
        of_item, place_i = np.unique(i, return_inverse=True)
        found = retrieval.vectors_of(
            model,
            model.context_rows(model.contexts.take(of_context)),
            model.item_rows(model.items.take(of_item)),
        )
        return found.const[place_c] + exact_dots(found.Q, found.P, place_c, place_i)

    def score(self, interactions: Any, exclude: Any = None) -> float:
        """Mean over the contexts of `metric` at `k`: how well lists find these interactions.

        Parameters
        ----------
        interactions : {array-like, sparse matrix} of shape (n_contexts, n_items)
            Positives, as in `fit`.
        exclude : {array-like, sparse matrix} of shape (n_contexts, n_items) or None
            Pairs that lists leave out, such as those of the training.

        Returns
        -------
        float
            Contexts without a positive do not count; NaN if that are all.

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        model = self._fitted_model("score")
        check_params(self)
        shape = (model.contexts.n_samples, model.items.n_samples)
        positive = given.check_interactions(interactions, "interactions")
        given.check_shape(positive, "interactions", shape)
        known = None if exclude is None else given.check_entries(exclude, "exclude", shape)
        return self._mean_metric(model, given.matrix_of(positive), known)

    def _mean_metric(self, model: RankingModel, positive: sp.csr_array, known: sp.csr_array | None) -> float:
        """The metric of lists without what is known, over the contexts that have a positive."""
        chosen = np.flatnonzero(np.diff(positive.indptr))
        if not len(chosen):
            return float("nan")
        found = retrieval.vectors_of(
            model, model.context_rows(model.contexts.take(chosen)), model.item_rows(model.items)
        )
        n = min(int(self.k), model.items.n_samples)
        exclude = None if known is None else known[chosen]
        lists = retrieval.top_n(found, n, exclude=exclude, n_jobs=self.n_jobs)
        values = _METRICS[self.metric](positive[chosen], lists.items)
        return ranking_metrics.average(values).mean

    def explain(
        self, context: Any, item: Any, *, feature_names: Sequence[str] | None = None
    ) -> explaining.Explanation:
        """Split the score of one pair into a term per feature and one per pair of features.

        Parameters
        ----------
        context, item : int, or {array-like, sparse matrix} of shape (1, n)
            A number of the last `fit`, or a row of features.
        feature_names : sequence of str of length n_features_in_, default=None
            Names of the columns of the contexts, then of the items. None: such as "context 3" and "item 7"
            for ids, "context feature 3" and "item feature 7" for others.

        Returns
        -------
        Explanation
            Its terms add up to the score, the largest |contribution| first.

        Raises
        ------
        NotFittedError, ValueError, TypeError
        """
        model = self._fitted_model("explain")
        one_context = _one(context, model.contexts, "context", "context_features", model.dtype)
        one_item = _one(item, model.items, "item", "item_features", model.dtype)
        names = _names_of(model, feature_names)
        return explaining.explain_row(model, pair_row(model, one_context, one_item), 0, 1.0, names)

    def top_interactions(
        self,
        n: int = 10,
        *,
        between: tuple[Any, Any] | None = None,
        scale: ArrayLike | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> explaining.Interactions:
        """The pairs of features that change a score most: the largest |<v_j, v_l>| scale_j scale_l.

        The search is exact, and never holds more than a block of all pairs.

        Parameters
        ----------
        n : int, default=10
            How many pairs; fewer are returned where there are fewer that change any score.
        between : pair of arrays of int, or None, default=None
            Column numbers, of which a pair has one from each; those of the contexts come first. None: a
            feature of the contexts and one of the items.
        scale : array-like of shape (n_features_in_,) or None, default=None
            Typical values of the features. None: 1, as for ids.
        feature_names : sequence of str of length n_features_in_, default=None
            As for `explain`.

        Returns
        -------
        Interactions

        Raises
        ------
        NotFittedError, ValueError
        """
        model = self._fitted_model("top_interactions")
        if between is None:
            first = model.contexts.n_features
            between = np.arange(first), np.arange(first, model.n_features)
        return explaining.strongest_pairs(
            model,
            explaining.check_n(n),
            0,
            1.0,
            explaining.groups_of(model, between),
            explaining.check_scale(scale, model.n_features),
            None,
            _names_of(model, feature_names),
        )

    def _contexts(self, model: RankingModel, contexts: Any) -> tuple[NDArray[np.intp] | None, SparseRows]:
        """Numbers of known contexts, None for others, and their rows in the columns of the model."""
        known = model.contexts
        if contexts is None:
            return np.arange(known.n_samples), model.context_rows(known)
        if not sp.issparse(contexts) and np.ndim(contexts) < 2:
            numbers = given.check_numbers(contexts, known.n_samples, "contexts")
            return numbers, model.context_rows(known.take(numbers))
        rows = check.check_X(contexts, dtype=model.dtype, name="contexts")
        given.check_columns(rows, known, "contexts", "context_features")
        return None, model.context_rows(rows)

    def _items(self, model: RankingModel, item_features: Any) -> SparseRows:
        if item_features is None:
            return model.item_rows(model.items)
        rows = check.check_X(item_features, dtype=model.dtype, name="item_features")
        given.check_columns(rows, model.items, "item_features", "item_features")
        return model.item_rows(rows)


def _one(x: Any, known: SparseRows, name: str, features: str, dtype: np.dtype) -> SparseRows:
    """The row of one context or item, by number or by its features."""
    if not sp.issparse(x) and np.ndim(x) == 0:
        return known.take(given.check_numbers([x], known.n_samples, name))
    row = check.check_X(x, dtype=dtype, name=name)
    if row.n_samples != 1:
        raise ValueError(f"{name} has {row.n_samples} rows, expected one; explain one pair at a time.")
    given.check_columns(row, known, name, features)
    return row


def _names_of(model: RankingModel, given_names: Sequence[str] | None) -> Any:
    """Names of the columns of contexts and items."""
    names = explaining.names_of_model(model, given_names)
    return [*_names("context", model.contexts), *_names("item", model.items)] if names is None else names


def _names(name: str, rows: SparseRows) -> list[str]:
    word = name if is_identity(rows) else f"{name} feature"
    return [f"{word} {j}" for j in range(rows.n_features)]
