"""What tests of trainings have in common: a short training, and what is compared of two fits."""

from __future__ import annotations

from pathlib import Path

import torch

from sciinf.campaigns.store import Store
from sciinf.core import Fit
from sciinf.training import Recipe
from sciinf.training.learner import stream

SIMULATOR = Path(__file__).parents[1] / "simulators" / "linear_gaussian.py"
SHORT = Recipe(epochs=5, batch=150, processes=1)  # so that steps can be counted
FILES = ["fit.json", "history.csv", "model.safetensors"]


def same(one: Fit, two: Fit) -> bool:
    """Whether two fits are the same to the last bit."""
    a, b = one.estimator.state_dict(), two.estimator.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(fit: Fit) -> list[tuple[float, float]]:
    """Training and validation loss of each row of the history."""
    return [(row["train_loss"], row["validation_loss"]) for row in fit.record["history"]]


def validation_loss(fit: Fit, store: Store) -> float:
    """Mean over the store's last tenth, with the noise that training used."""
    cut = len(store) - round(len(store) * 0.1)
    with torch.no_grad():
        noise = stream(fit.record["seed"], -1, "cpu")
        return float(fit.estimator.loss(store.load(slice(cut, len(store))), generator=noise).mean())
