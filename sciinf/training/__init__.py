"""Training: `train` from a store, an estimator and a recipe to a fit, and the estimators that can be trained.

`fitting` is the door, `loop` its epochs and `step` one step; rows come from a store (`rows`), a store that is still
being filled (`followed`) or a simulator (`online`). Each file of `estimators` is one way to learn a posterior or
likelihood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.training.fitting import train as train, train_ensemble as train_ensemble
    from sciinf.training.recipe import Recipe as Recipe

__getattr__, __dir__ = offered(__name__, __file__)
