r"""Does the observation lie where the simulations lie?

The observation is compared with fresh simulations, through three views of data (`views`) and by scores that are
learned in addition (`scores`). The first third of the simulations gives the scales of the views and trains the
scores. The p-value comes from the distances of the other simulations. It is uniform for an observation of the model,
or larger where data are discrete, and small for an observation unlike all simulations. By default the score is that
of planted faults. This needs 1,000 successful simulations in the third, and data of at most 4,096 numbers.

References:
    | Detecting model misspecification in amortized Bayesian inference with neural networks (Schmitt et al., 2022),
      https://arxiv.org/abs/2112.08866
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.core import Level, Posterior, Trust, X
from sciinf.diagnostics.scores.known import DEFAULT, distances_of, learned_of, names_of
from sciinf.diagnostics.scores.score import MOST, DataScore, fits
from sciinf.diagnostics.views import VIEWS, Ranked, Views, conformal_p

REFERENCE = "distances"  # A reference has this name since ties are ranked correctly; older references lack it.
_ROWS = 20_000
_CHUNK = 4096
# Least number of simulations to learn scores from: by default, and where scores are requested.
_ENOUGH, _FEWEST = 1_000, 100
_ALARM, _UNUSUAL = 0.01, 0.05


def make_reference(posterior: Posterior, store: Store, scores: Sequence[DataScore] | None = None) -> dict[str, Tensor]:
    """Reference tensors that describe fresh simulations, for `check_observation`.

    Args:
        posterior: Posterior whose learned summaries give one of the views.
        store: Fresh simulations, not the training simulations.
        scores: Scores to learn in addition to the views. By default `DEFAULT`, where data have few enough numbers
            and there are enough simulations.

    Returns:
        Plain tensors: the scales of each view, and the distances of the simulations in each view.

    Raises:
        ValueError: If there are too few simulations, or a requested score cannot be learned.
    """
    count = min(len(store), _ROWS)
    first, rest = slice(0, count // 3), slice(count // 3, count)
    views = Views(posterior).fit(lambda: store.batches(_CHUNK, rows=first))
    seen = store.load(first) if fits(posterior.observables) else None
    if seen is not None and not any(bool((value != value[:1]).any()) for value in seen.x.values()):
        seen = None  # No score distinguishes data that never vary.
    chosen = _scores(scores, posterior, len(seen) if seen else 0)
    learned = views.tensors | (learned_of(chosen, posterior, seen.x) if seen and chosen else {})
    far = [_distances(learned, posterior, batch.x) for batch in store.batches(_CHUNK, rows=rest)]
    return {**learned, REFERENCE: torch.cat(far)}


def _scores(scores: Sequence[DataScore] | None, posterior: Posterior, rows: int) -> Sequence[DataScore]:
    """Scores to learn from this number of simulations."""
    if scores is None:
        return DEFAULT if rows >= _ENOUGH and fits(posterior.observables) else ()
    if scores and not fits(posterior.observables):
        raise ValueError(f"scores are for data of at most {MOST:,} numbers; these have more; give scores=[]")
    if scores and rows < _FEWEST:
        raise ValueError(
            f"a third of the simulations, {rows}, are too few to learn scores from; give {3 * _FEWEST}, or scores=[]"
        )
    return scores


def _distances(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """Distances of a batch of data, in each view and by each score, (batch, views + scores)."""
    views = Views(posterior, reference).distances(x)
    return torch.cat([views, distances_of(reference, posterior, x)], dim=1)


def p_values(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """p-values, (batch,), of a batch of observations, name -> (batch, *event)."""
    return conformal_p(reference[REFERENCE], _distances(reference, posterior, x))


@final
class Compared:
    """Fresh simulations, prepared for comparison with observations.

    Args:
        reference: Result of `make_reference`; empty where there are no fresh simulations.
        posterior: Posterior whose learned summaries give one of the views.
    """

    def __init__(self, reference: Mapping[str, Tensor], posterior: Posterior) -> None:
        self.reference, self.posterior = reference, posterior
        known = REFERENCE in reference
        self.ranked = Ranked(reference[REFERENCE]) if known else None
        self.views = Views(posterior, reference) if known else None
        self.searched = fits(posterior.observables)

    def trust(self, x: X) -> list[Trust]:
        """Verdict on each observation of a batch, name -> (batch, *event), as if it were alone."""
        count = len(next(iter(x.values())))
        if self.ranked is None or self.views is None:
            return [Trust(None, _OLDER if self.reference else _NONE, Level.UNKNOWN)] * count
        far = torch.cat([self.views.distances(x), distances_of(self.reference, self.posterior, x)], dim=1)
        every, plain = self.ranked.p_values(far), None
        if bool((every < _ALARM).any()):
            plain = self.ranked.p_values(far, len(VIEWS))
        alone = every if plain is None else plain
        return [self._verdict(float(p), float(q), self.ranked.rows) for p, q in zip(every, alone, strict=True)]

    def _verdict(self, p: float, plain: float, rows: int) -> Trust:
        """Verdict from two p-values: one from all views and scores, and one from the plain views alone."""
        return _verdict(p, plain, rows, self.reference, self.searched)


def check_observation(reference: Mapping[str, Tensor], posterior: Posterior, x: X) -> Trust:
    """Verdict on one observation, name -> (1, *event)."""
    return Compared(reference, posterior).trust(x)[0]


_NONE = "there are no fresh simulations to compare the observation with; run `sciinf calibrate`"
_OLDER = (
    "what the fresh simulations look like was written by an older version of sciinf, which ranked equal values "
    "wrongly; run `sciinf calibrate` again, which keeps the simulations"
)


def _verdict(p: float, plain: float, rows: int, learned: Mapping[str, Tensor], searched: bool) -> Trust:
    """Verdict on one observation from its p-values.

    Args:
        p: p-value from the views and all scores.
        plain: p-value from the views alone.
        rows: Number of simulations that the observation was compared with.
        learned: Tensors of the learned scores.
        searched: Whether data have few enough numbers for scores.
    """
    if 1 / (1 + rows) >= _ALARM:
        most = "more unusual than all of them" if p <= 1.5 / (1 + rows) else f"p = {p:.2g}"
        least = math.ceil(1.5 / _ALARM)  # Two thirds of the simulations are compared.
        words = (
            f"too few fresh simulations ({rows:,}) to tell: the observation is {most}, but p = {1 / (1 + rows):.2g} is "
            f"the smallest that they allow, and an alarm is below {_ALARM}; calibrate on at least {least}"
        )
        return Trust(p, words, Level.UNKNOWN)
    if p < _ALARM and plain >= _UNUSUAL:
        words = (
            "the observation looks like the simulations in each plain view, but a score that was trained on them "
            f"({', '.join(names_of(learned))}) finds it strange (p = {p:.2g} among {rows:,}), so do not believe the "
            "answer: check how the data were measured and prepared, and whether the simulator lacks something"
        )
        return Trust(p, words, Level.ALARM)
    if p < _ALARM:
        words = (
            f"the observation is unlike the simulations (p = {p:.2g} among {rows:,}); the network has seen nothing "
            "like it, so do not believe the answer: check the data, their units, the simulator and its prior"
        )
        return Trust(p, words, Level.ALARM)
    if p < _UNUSUAL:
        words = f"only {p:.1%} of {rows:,} fresh simulations are as unusual as the observation (p = {p:.2g})"
        return Trust(p, words, Level.CAUTION)
    large = "" if searched else f"; data of more than {MOST:,} numbers are not searched for faults"
    return Trust(p, f"the observation looks like the simulations (p = {p:.2g} among {rows:,}){large}", Level.GOOD)
