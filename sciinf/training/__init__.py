"""The training floor: `train` makes a fit from a store, an estimator and a recipe; the estimators stand beside it.

`fitting` offers `train`, `loop` runs the epochs and `step` does one step. Training rows come from a store (`rows`), a
store that is still being filled (`followed`) or a simulator (`online`). The host waits for the device once an epoch:
batches are picked by index on the device, and gradient norms and losses stay there.

Processes that torchrun starts (`launched`) each take a slice of every batch. One all-reduce sums their gradients
between `backward` and clipping. All processes decide by numbers that are equal in all of them to the last bit. They
begin with the first process's weights, and compare weights at each validation. Only the first process writes files and
messages. Several processes cannot train on rows that are made during training, by a simulator or a campaign.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.training.distillation import distil as distil
    from sciinf.training.fitting import train as train, train_ensemble as train_ensemble
    from sciinf.training.recipe import Recipe as Recipe

__getattr__, __dir__ = offered(__name__, __file__)
