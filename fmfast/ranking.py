"""FMRanker: factorization machines that learn to rank items from implicit feedback. No mathematics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fmfast import interactions as given
from fmfast.base import RandomState
from fmfast.checkpoint import Checkpoint
from fmfast.exceptions import DivergenceError, level_of_caller
from fmfast.model import TrainingState
from fmfast.modelfile import saveable
from fmfast.parameters import check_params
from fmfast.ranked_lists import RankedLists
from fmfast.ranking_model import RankingModel, identity_rows
from fmfast.solvers.ranking import Positives, RankingSolver
from fmfast.training import Callback, Stopping, count_threads, divergence, n_set_apart, run_epochs
from fmfast.validation import SparseRows

# By loss: bench/README.md tells how they were chosen, and on what data.
_LEARNING_RATE = {"warp": 0.3, "bpr": 0.5}
_REG = {"warp": 1.0, "bpr": 0.03}
_INIT_STD = 0.02


@saveable
class FMRanker(RankedLists):
    """Factorization machine that ranks items for contexts, learned from what was chosen.

    Contexts are who chooses, and where and when; items are what is chosen. Interactions are the pairs that
    were observed, the *positives*; nothing is known of all other pairs. The machine learns to give a positive
    a higher score than items drawn at random from the others, the *negatives*:

        score(c, i) = const_c + <s_c, s_i> + b_i,        s = V^T x
                      b_i = <w, x_i> + sum_{j<l} <v_j, v_l> x_ij x_il

    which is the score of Rendle (2010), eq. 1, for a row whose context and item have columns of their own.
    With ids alone, it is matrix factorization with biases of the items.

    Parameters
    ----------
    n_factors : int, default=32
        Length of the vector v_j of each feature.
    loss : {"warp", "bpr"}, default="warp"
        "warp" draws negatives until one has a score that is not at least 1 below the positive's, and moves
        both the more, the sooner that happened: it works at the top of the list (Weston, Bengio, Usunier
        2011). "bpr" takes one negative, and minimises -log sigma(score(c, i) - score(c, n)) (Rendle et al.
        2009).
    max_iter : int, default=30
        Epochs; one visits every positive once.
    learning_rate : float or None, default=None
        Step size of AdaGrad with one accumulator for w_j and one for v_j. None: 0.3 for "warp", 0.5 for
        "bpr"; divided by n/10 if n > 10, n being the mean of sum_j |x_j| over contexts plus that over items.
    reg_w, reg_V : float or None, default=None
        Strength of the L2 penalties reg / 2 * w_j^2 and reg / 2 * |v_j|^2, which count each time a feature is
        moved. None: 1.0 for "warp", whose gradients are as large as sum_{q <= n_items} 1 / q, and 0.03 for
        "bpr".
    init_std : float or None, default=None
        Standard deviation of the random numbers with which V starts. None: 0.02.
    max_trials : int, default=10
        Negatives that "warp" draws at most before it leaves a positive as it is.
    popularity_power : float, default=0.25
        An item is drawn as a negative in proportion to (1 + its number of interactions)^popularity_power; 0
        draws all alike. Never is a positive of the same context drawn.
    early_stopping : bool, default=False
        Stop when the validation score has stopped improving, and keep the best epoch. The validation data is
        `eval_set` of `fit`, or, without one, a random part of the interactions.
    validation_fraction : float, default=0.1
        That part.
    n_iter_no_change : int, default=5
        Epochs without improvement after which early stopping stops.
    tol : float, default=0.0
        What the validation score must gain to count as improved.
    metric : {"ndcg", "recall"}, default="ndcg"
        The validation score and that of `score`: the mean over the contexts of `fmfast.metrics.ndcg_at` or
        `recall_at` of lists without the interactions of the training.
    k : int, default=10
        Length of these lists.
    n_jobs : int or None, default=None
        Threads for training and recommendation: None is 1, -1 all cores. Several threads update shared
        parameters without locks, so that results then differ slightly from run to run.
    random_state : int, numpy Generator or RandomState, or None, default=None
        Seed of V, of the order of the pairs and of the negatives. With an int and one thread, equal calls
        give equal bytes.
    warm_start : bool, default=False
        Let `fit` continue the previous fit for another `max_iter` epochs instead of starting anew.
    callbacks : list of callables or None, default=None
        Each gets a copy of the record of every finished epoch (see `history_`); a true return value stops
        the fit after this epoch.
    verbose : int, default=0
        1 prints a line per epoch.
    dtype : {"float32", "float64"}, default="float32"
        What the parameters are stored and computed in.

    Attributes
    ----------
    w_ : ndarray of shape (n_features,)
    V_ : ndarray of shape (n_features, n_factors)
        The parameters; the columns of the contexts come first. The w of these stay 0.
    n_contexts_, n_items_ : int
    n_skipped_contexts_ : int
        Contexts of the last `fit` without a positive, or with nothing but positives. Not saved.
    n_features_in_ : int
        Columns of contexts and items together.
    n_iter_ : int
        Epochs of the last `fit`.
    history_ : list of dict
        One record per epoch since training began: "epoch" (from 1), "loss" (mean over the positives, each
        taken before its update), "validation_score" (None without validation data), "seconds" (of the updates
        alone).
    model_ : RankingModel
        The trained model with its parameter table, and the rows of its contexts and items.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from fmfast import FMRanker
    >>> likes = sp.csr_array(np.kron(np.eye(2), np.ones((5, 4))))  # two groups of five, each likes four items
    >>> likes[0, 0] = 0  # but this one has not been seen yet
    >>> ranker = FMRanker(n_factors=4, random_state=0).fit(likes)
    >>> ranker.recommend([0], n=1, exclude=likes).items.tolist()
    [[0]]
    """

    _kind = "ranker"
    _task = "ranking"

    def __init__(
        self,
        n_factors: int = 32,
        *,
        loss: str = "warp",
        max_iter: int = 30,
        learning_rate: float | None = None,
        reg_w: float | None = None,
        reg_V: float | None = None,
        init_std: float | None = None,
        max_trials: int = 10,
        popularity_power: float = 0.25,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 0.0,
        metric: str = "ndcg",
        k: int = 10,
        n_jobs: int | None = None,
        random_state: RandomState = None,
        warm_start: bool = False,
        callbacks: Sequence[Callback] | None = None,
        verbose: int = 0,
        dtype: str = "float32",
    ) -> None:
        self.n_factors = n_factors
        self.loss = loss
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.reg_w = reg_w
        self.reg_V = reg_V
        self.init_std = init_std
        self.max_trials = max_trials
        self.popularity_power = popularity_power
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.metric = metric
        self.k = k
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose
        self.dtype = dtype

    @property
    def w_(self) -> NDArray[Any]:
        """Linear weights, (n_features,), those of the contexts first."""
        model: RankingModel = self._fitted_model("w_")
        return model.w

    @property
    def V_(self) -> NDArray[Any]:
        """Factors, (n_features, n_factors), those of the contexts first."""
        model: RankingModel = self._fitted_model("V_")
        return model.V

    # -- training ------------------------------------------------------------------------------

    def fit(
        self,
        interactions: Any,
        context_features: Any = None,
        item_features: Any = None,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
    ) -> Self:
        """Train on observed pairs.

        Parameters
        ----------
        interactions : {array-like, sparse matrix} of shape (n_contexts, n_items)
            A pair is a positive if its value is; how large it is does not matter (see `sample_weight`).
        context_features : {array-like, sparse matrix} of shape (n_contexts, n_context_features) or None
            What is known of the contexts. None: an id for each. Give both side by side if contexts differ
            beyond what is known of them: `scipy.sparse.hstack([scipy.sparse.eye_array(n_contexts), known])`.
        item_features : {array-like, sparse matrix} of shape (n_items, n_item_features) or None
            The same for the items. Features that items share are what scores those nobody has chosen yet.
        sample_weight : array-like of shape (n_contexts,), matrix of shape (n_contexts, n_items), or None
            Non-negative: of all positives of a context, or of each positive. It multiplies loss and penalty;
            a positive of weight 0 is not trained on, but is no negative either.
        eval_set : {array-like, sparse matrix} of shape (n_contexts, n_items) or None
            Positives to validate with after every epoch: those that are not among `interactions` as well.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For settings or data that cannot be used; the estimator stays as it was.
        DivergenceError
            If scores or parameters are no longer finite; the estimator stays as it was.

        Warns
        -----
        UserWarning
            If contexts have no positive, or nothing else: they are skipped, and counted in
            `n_skipped_contexts_`.
        """
        check_params(self)
        self._check_callbacks()
        dtype = np.dtype(self.dtype)
        positive = given.check_interactions(interactions, "interactions")
        n_contexts, n_items = positive.n_samples, positive.n_features
        contexts = given.check_features(context_features, n_contexts, "context_features", "contexts", dtype)
        items = given.check_features(item_features, n_items, "item_features", "items", dtype)
        contexts = identity_rows(n_contexts, dtype) if contexts is None else contexts
        items = identity_rows(n_items, dtype) if items is None else items
        weight = given.check_weight(sample_weight, positive)
        held_out = None
        if eval_set is not None:
            held_out = given.without(given.check_same_shape(eval_set, "eval_set", positive), positive)
            if not held_out.nnz:
                raise ValueError(
                    "eval_set has no positive that interactions does not have as well, expected others to "
                    "validate with; keep them out of interactions."
                )
        is_new = not (self.warm_start and self.__sklearn_is_fitted__())
        if not is_new:
            self._check_continued(contexts, items)
        positives, n_skipped = given.positives_of(positive, weight)
        n_validation = 0
        if held_out is None and self.early_stopping:
            n_validation = n_set_apart(self.validation_fraction, positive.nnz, "interactions")
        # From here on nothing is wrong with the arguments, so a generator may be asked for a seed.
        # Those who go on may bring other contexts and items with the same features.
        model = (
            self._new_model(contexts, items)
            if is_new
            else replace(self.model_, contexts=contexts, items=items)
        )
        assert model.training is not None
        if n_validation:
            positive, weight, held_out = self._split(positive, weight, n_validation, model.training.seed)
            positives, n_skipped = given.positives_of(positive, weight)
        history = self._train(model, positives, held_out, positive, undoable=not is_new)
        self._publish(model, history if is_new else self.history_ + history, len(history))
        self.n_skipped_contexts_ = n_skipped
        if n_skipped:
            warnings.warn(
                f"interactions has {n_skipped} of {n_contexts} contexts without a positive, or with nothing "
                "else, from which no order can be learned: they are skipped.",
                stacklevel=level_of_caller(),
            )
        return self

    def _check_callbacks(self) -> None:
        if any(isinstance(callback, Checkpoint) for callback in self.callbacks or ()):
            raise ValueError(
                "callbacks of FMRanker holds a Checkpoint, expected other callables: a ranker cannot resume; "
                "save it between fits with warm_start=True."
            )

    def _check_continued(self, contexts: SparseRows, items: SparseRows) -> None:
        """Refuse data or settings with which the present model cannot be trained further."""
        model = self.model_
        now = (contexts.n_features, items.n_features, int(self.n_factors), np.dtype(self.dtype))
        then = (model.contexts.n_features, model.items.n_features, model.n_factors, model.dtype)
        names = ("columns of context_features", "columns of item_features", "n_factors", "dtype")
        for name, value, before in zip(names, now, then, strict=True):
            if value != before:
                raise ValueError(
                    f"warm_start=True continues a model with {name}: {before}, but now it is {value}; set it "
                    "back, or fit anew with warm_start=False."
                )

    def _new_model(self, contexts: SparseRows, items: SparseRows) -> RankingModel:
        norm = contexts.mean_row_norm(1) + items.mean_row_norm(1)
        init_std = _INIT_STD if self.init_std is None else float(self.init_std)
        training = TrainingState("adagrad", self._seed(), norm, init_std)
        table = RankingSolver.new_table(
            contexts.n_features + items.n_features, int(self.n_factors), np.dtype(self.dtype), init_std,
            training.seed,
        )  # fmt: skip
        return RankingModel(table, self._task, training=training, contexts=contexts, items=items)

    def _solver(self, row_norm: float) -> RankingSolver:
        rate = self.learning_rate
        if rate is None:
            rate = _LEARNING_RATE[self.loss] / max(1.0, row_norm / 10.0)
        reg_w, reg_V = (_REG[self.loss] if reg is None else reg for reg in (self.reg_w, self.reg_V))
        return RankingSolver(
            self.loss, float(rate), float(reg_w), float(reg_V), int(self.max_trials),
            float(self.popularity_power),
        )  # fmt: skip

    @staticmethod
    def _split(
        positive: SparseRows, weight: NDArray[np.float64], n_validation: int, seed: int
    ) -> tuple[SparseRows, NDArray[np.float64], SparseRows]:
        """Positives to train on with their weights, and a random part to validate with."""
        kept = np.ones(positive.nnz, dtype=bool)
        kept[np.random.default_rng([seed, 0]).permutation(positive.nnz)[:n_validation]] = False
        weight = weight[kept] if len(weight) else weight
        return given.select(positive, kept), weight, given.select(positive, ~kept)

    def _train(
        self,
        model: RankingModel,
        positives: Positives,
        held_out: SparseRows | None,
        known: SparseRows,
        undoable: bool,
    ) -> list[dict[str, Any]]:
        training = model.training
        assert training is not None
        solver = self._solver(training.row_norm)
        n_threads = count_threads(self.n_jobs, len(positives.trained))
        contexts, items = model.context_rows(model.contexts), model.item_rows(model.items)
        wanted = None if held_out is None else given.matrix_of(held_out)
        trained = given.matrix_of(known)

        def diverged() -> DivergenceError:
            largest = max(contexts.largest_value(), items.largest_value())
            return divergence(solver, largest, training.n_epochs)

        def validate() -> float | None:
            if wanted is None:
                return None
            if not model.table.all_finite():
                raise diverged()
            return self._mean_metric(model, wanted, trained)

        return run_epochs(
            model.table,
            training,
            lambda: solver.begin(model.table, contexts, items, positives, training.seed, n_threads),
            lambda: np.union1d(contexts.present_features(), items.present_features()),
            reported_loss=lambda loss: loss / positives.total_weight,
            validate=validate,
            diverged=diverged,
            stopping=Stopping(
                int(self.max_iter), bool(self.early_stopping), int(self.n_iter_no_change), float(self.tol)
            ),
            callbacks=self.callbacks or (),
            verbose=bool(self.verbose),
            undoable=undoable,
        )

    def _publish(self, model: RankingModel, history: list[dict[str, Any]], n_iter: int) -> None:
        self.model_ = model
        self.n_contexts_, self.n_items_ = model.contexts.n_samples, model.items.n_samples
        self.n_features_in_ = model.n_features
        self.n_iter_ = n_iter
        self.history_ = history
