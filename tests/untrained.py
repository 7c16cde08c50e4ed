"""An estimator that was never trained: what it gives is known, and data are their own features."""

from __future__ import annotations

from abc import ABC

import torch

from sciinf.core import Estimator


class Untrained(Estimator, ABC):
    """A subclass sets `prior` and `observables`, and defines `condition`."""

    def __init__(self):
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))

    def standardise(self, batches):
        raise NotImplementedError

    def loss(self, batch, *, generator):
        raise NotImplementedError

    def features(self, x):
        return x["x"]
