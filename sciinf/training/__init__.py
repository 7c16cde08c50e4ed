"""Training: from a store, an estimator and a recipe to a fit; and the estimators.

`fitting` is the door, `loop` its epochs and `step` one step. Rows come from a store (`rows`), a store that is still
being filled (`followed`) or a simulator (`online`). A step touches the host once an epoch: batches are picked by index
on the device, and gradient norms and losses stay there.

Processes that torchrun starts (`launched`) each take a slice of every batch, and one all-reduce of the gradients comes
between `backward` and clipping. All decide by numbers that are the same in all to the last bit, begin with the first
one's weights, and compare weights at each validation. The first process alone writes and speaks. Rows that are made
meanwhile, by a simulator or a campaign, are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.training.fitting import train as train, train_ensemble as train_ensemble
    from sciinf.training.recipe import Recipe as Recipe

__getattr__, __dir__ = offered(__name__, __file__)
