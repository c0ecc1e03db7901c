"""Learning to rank written down from its definition: the oracle of the tests of the ranking kernel.

Scores are those of `reference.score_row` for the whole row of a pair; gradients are those of its double sum.
Only how random numbers are made is taken over from the kernel, since else nothing could be compared.
"""

from __future__ import annotations

import numpy as np
import reference

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix64(x):
    """SplitMix64 (Steele, Lea, Flood 2014)."""
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Draws:
    """The items that are drawn for one pair, one after the other, without the context's positives."""

    def __init__(self, seed, pair, n_items, positives, keep=None, alias=None):
        self.state = mix64((seed + pair) & _MASK)
        self.n_items, self.positives = n_items, positives
        self.keep, self.alias = keep, alias

    def __call__(self):
        for _ in range(64):
            self.state = (self.state * 6364136223846793005 + 1442695040888963407) & _MASK
            item = ((self.state >> 32) * self.n_items) >> 32
            if self.keep is not None and ((self.state >> 8) & 0xFFFFFFFF) > self.keep[item]:
                item = int(self.alias[item])
            if item not in self.positives:
                return item
        while item in self.positives:
            item = (item + 1) % self.n_items
        return item


def harmonic(n):
    return float(np.sum(1.0 / np.arange(1, n + 1)))


class Trainer:
    """AdaGrad on dense rows of pairs, in float64.

    Parameters
    ----------
    contexts, items : dense rows in the columns of both
    w, V : start
    """

    def __init__(self, contexts, items, positives, w, V, *, loss, learning_rate, reg_w, reg_V, max_trials=1):
        self.contexts, self.items = np.asarray(contexts, float), np.asarray(items, float)
        self.positives = positives
        self.w, self.V = np.array(w, float), np.array(V, float)
        self.G_w, self.G_V = np.ones(len(self.w)), np.ones(len(self.V))
        self.loss, self.rate, self.reg_w, self.reg_V = loss, learning_rate, reg_w, reg_V
        self.max_trials = max_trials

    def row(self, c, i):
        return self.contexts[c] + self.items[i]

    def score(self, c, i):
        return reference.score_row(self.row(c, i), 0.0, self.w, self.V)

    def loss_of(self, diff, trial):
        """Loss and its derivative."""
        if self.loss == "bpr":
            return np.logaddexp(0.0, -diff), -1.0 / (1.0 + np.exp(diff))
        phi = harmonic(max(1, (len(self.items) - 1) // trial))
        return phi * (1.0 - diff), -phi

    def visit(self, c, i, weight, draw):
        """One positive pair; returns (weight * loss, whether something was moved, draws)."""
        if self.loss == "bpr":
            n, trial = draw(), 1
        else:
            for trial in range(1, self.max_trials + 1):  # noqa: B007
                n = draw()
                if self.score(c, i) - self.score(c, n) < 1.0:
                    break
            else:
                return 0.0, False, trial
        loss, dloss = self.loss_of(self.score(c, i) - self.score(c, n), trial)
        _, dw_i, dV_i = reference.score_gradient(self.row(c, i), self.V)
        _, dw_n, dV_n = reference.score_gradient(self.row(c, n), self.V)
        g_w, g_V = weight * dloss * (dw_i - dw_n), weight * dloss * (dV_i - dV_n)
        of_items = (self.items[i] != 0) | (self.items[n] != 0)
        moved = of_items | (self.contexts[c] != 0)
        g_w = np.where(of_items, g_w + weight * self.reg_w * self.w, 0.0)  # w of the context cancels out
        g_V = np.where(moved[:, None], g_V + weight * self.reg_V * self.V, 0.0)
        self.G_w += g_w**2
        self.G_V += (g_V**2).sum(axis=1)
        self.w -= self.rate / np.sqrt(self.G_w) * g_w
        self.V -= self.rate / np.sqrt(self.G_V)[:, None] * g_V
        return weight * loss, True, trial
