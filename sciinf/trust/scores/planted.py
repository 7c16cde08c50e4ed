r"""Planted faults: a network that tells simulations from simulations with a fault says of new data which they are like.

Faults of generic kinds, places and sizes (`faults`) are planted in fresh simulations. With x a simulation and x' one
with a fault, phi(x) what is seen of data and f a perceptron,

    E[log(1 + exp f(phi(x))) + log(1 + exp -f(phi(x')))]

is least for f = log p(x') / p(x), which is the best test of such faults together. The distance is log(1 + exp f).

What is seen: with z = (u - m) / s how far each number is from what the others say of it (`others`), in its sds, the
numbers u, z and log s where they are few; the largest |z|, the mean, size and likelihood of all; and along every axis
how much neighbours differ, how often they are equal, and means, sizes and slopes of the parts at each index.

References:
    | Deep anomaly detection with outlier exposure (Hendrycks, Mazeika, Dietterich, 2019), https://arxiv.org/abs/1812.04606
    | A classification framework for anomaly detection (Steinwart, Hush, Scovel, 2005),
      https://www.jmlr.org/papers/v6/steinwart05a.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sciinf.core import Posterior, X
from sciinf.trust.scores.faults import FAULTS, Fault, planted
from sciinf.trust.scores.others import fit_others, others
from sciinf.trust.scores.perceptron import applied, descended, drawn, some
from sciinf.trust.scores.score import DataScore, Numbers, bent, named, part

_HIDDEN, _STEPS = 128, 500
_DROPPED = 0.5  # of the hidden units, while it learns: faults are many, simulations are few
_POOL, _NUMBERS = 30_000, 8_000_000  # faults, and numbers in them, at most
_ROWS = 2_048
_FEW = 200  # numbers up to which each is seen
_EACH = 64  # indices of an axis up to which each is seen
_TOP, _SOME = 10, 5


@dataclass(frozen=True)
class PlantedFaults(DataScore):
    """How much data are like simulations that a fault was planted in.

    Args:
        kinds: Faults to plant, some of "number", "level", "drift", "size" and "repeated".

    Raises:
        ValueError: If there is none, or one that is not known.
    """

    kinds: tuple[Fault, ...] = FAULTS

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(FAULTS):
            raise ValueError(f"kinds are some of {FAULTS}, got {self.kinds!r}")

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """What it learns from simulations, name -> (n, *event)."""
        numbers = Numbers(posterior.observables).fit(x)
        u, there = numbers(x)
        learned = numbers.tensors | named(fit_others(u, there, generator), "others/")
        clean = _seen_in_parts(numbers, learned, x)
        noise = others(part(learned, "others/"), u, there)[1].exp() * there
        bad = self._faults(numbers, learned, x, noise, generator)
        centre = torch.stack([clean.mean(0), clean.std(0).clamp_min(1e-6)])
        clean, bad = (bent((rows - centre[0]) / centre[1]).float() for rows in (clean, bad))

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            good, wrong = clean[some(len(clean), generator)], bad[some(len(bad), generator)]
            told = applied(weights, torch.cat([good, wrong]), dropped=_DROPPED, generator=generator)
            return (softplus(told[: len(good)]) + softplus(-told[len(good) :])).mean()

        begun = drawn([clean.shape[1], _HIDDEN, _HIDDEN, 1], generator)
        return learned | {"centre": centre} | named(descended(begun, loss, _STEPS), "network/")

    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Tensor:
        """How strange each of a batch of data is, (batch,)."""
        seen = _seen_in_parts(Numbers(posterior.observables, learned), learned, x)
        mean, sd = learned["centre"]
        return softplus(applied(part(learned, "network/"), bent((seen - mean) / sd))[:, 0].double())

    def _faults(
        self, numbers: Numbers, learned: Mapping[str, Tensor], x: X, noise: Tensor, generator: torch.Generator
    ) -> Tensor:
        """What is seen of simulations with a fault, in sds (n, J) of the noise of each number."""
        count, size = noise.shape
        found, wanted = [], min(_POOL, max(4 * _ROWS, _NUMBERS // size))
        for _ in range(0, wanted, _ROWS):
            i = torch.randint(count, (_ROWS,), generator=generator)
            rows = {name: value[i] for name, value in x.items()}
            found.append(_seen(numbers, learned, planted(numbers, rows, noise[i], self.kinds, generator)))
        return torch.cat(found)


def _seen_in_parts(numbers: Numbers, learned: Mapping[str, Tensor], x: X) -> Tensor:
    count = len(next(iter(x.values())))
    parts = [{name: value[k : k + _ROWS] for name, value in x.items()} for k in range(0, count, _ROWS)]
    return torch.cat([_seen(numbers, learned, rows) for rows in parts])


def _seen(numbers: Numbers, learned: Mapping[str, Tensor], x: X) -> Tensor:
    """What the network sees of data, (batch, features), float64."""
    u, there = numbers(x)
    mean, log = others(part(learned, "others/"), u, there)
    z = bent((u - mean) / log.exp()) * there
    much = there.sum(1, keepdim=True).clamp_min(1)
    top = z.abs().topk(min(_TOP, z.shape[1]), dim=1).values
    found = [top, z.sum(1, keepdim=True) / much, (z.square().sum(1, keepdim=True) / much).sqrt()]
    found.append((there * (log + 0.5 * z.square())).sum(1, keepdim=True) / much)
    found += [bent(u), z, log * there] if u.shape[1] <= _FEW else []
    first = 0
    for name in numbers.standard.specs:
        value = x[name].double()
        size = value[0].numel()
        shaped = z[:, first : first + size].reshape(value.shape)
        first += size
        for axis in range(1, value.ndim):
            if value.shape[axis] > 1:
                found += _along(shaped.movedim(axis, 1), value.movedim(axis, 1))
    return torch.cat(found, dim=1)


def _along(z: Tensor, value: Tensor) -> list[Tensor]:
    """What is seen along the first axis of an event: z and the numbers themselves, (batch, n, ...)."""
    count, n = z.shape[:2]
    flat, step = z.reshape(count, n, -1), value.reshape(count, n, -1).diff(dim=1)
    equal = (step == 0).double().mean(1).amax(1, keepdim=True)
    found = [flat.diff(dim=1).square().mean((1, 2))[:, None].sqrt(), equal]
    if flat.shape[2] > 1:
        slope = torch.linspace(-1.0, 1.0, n, dtype=z.dtype)
        level, size = flat.mean(2), flat.square().mean(2).sqrt()
        drift = (flat * slope[:, None]).mean(1)
        found += [each.abs().topk(min(_SOME, each.shape[1]), dim=1).values for each in (level, size, drift)]
        found += [(level @ slope)[:, None], *([level, size] if n <= _EACH else [])]
    return found
