r"""Planted faults: a network learns to tell simulations with a planted fault from others, and scores new data.

Faults of generic kinds, places and sizes are planted in fresh simulations. Let x be a simulation, x' one with a
fault, phi(x) the features of the data and f a perceptron. Then

    E[log(1 + exp f(phi(x))) + log(1 + exp -f(phi(x')))]

is least for f = log p(x') / p(x), which is the best test of all these faults together. The distance is log(1 + exp
f).

The features use z = (u - m) / s, the distance of each number from its prediction by the others, in its sds. They
are:

- the numbers u, z and log s, where there are few numbers;
- the largest |z|, and the mean, size and likelihood of all z;
- along every axis: how much neighbours differ, how often they are equal, and means, sizes and slopes of the parts at
  each index.

**The prediction by the others** of a number is a mean and an sd, learned from simulations. For up to 64 numbers, a
perceptron gets the numbers that remain when some are hidden at random, and the mask. It predicts mean m and sd s of
the hidden numbers, by minimising E sum_hidden [log s + (u - m)^2 / 2 s^2]. Then each number is hidden in turn. More
numbers are modelled as normal, with q leading axes and the same variance r in all other directions,

    P = (A A^T + r I)^-1,   m_k = u_k - (P u)_k / P_kk,   s_k = P_kk^(-1/2).

**Faults** are errors that can happen to a measurement of any kind, in any place and size. In every simulation one
observable is damaged. A part of it is drawn: along each axis one index, a window from one random index to another,
or the whole axis, with equal probability. With s the sd that the other numbers leave for a number, and e a size,

| kind | result for a number y of the part |
|---|---|
| number | y + e s, for one number anywhere |
| level | y + e s |
| drift | y + e s t, t from -1 to 1 along an axis |
| size | y + e s times a normal random number |
| repeated | the number at the part's first index of an axis |

These are the kinds that `diagnostics.localise` names. e has a random sign. Its size is log-uniform from min(1, 3 /
sqrt(k)), which the best test of a part of k numbers could just detect, to 30. Rounded or counted numbers are rounded
again afterwards. Simulations that the fault did not change are left out.

References:
    | MADE: Masked autoencoder for distribution estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    | Probabilistic principal component analysis (Tipping & Bishop, 1999), https://doi.org/10.1111/1467-9868.00196
    | Deep anomaly detection with outlier exposure (Hendrycks, Mazeika, Dietterich, 2019), https://arxiv.org/abs/1812.04606
    | A classification framework for anomaly detection (Steinwart, Hush, Scovel, 2005),
      https://www.jmlr.org/papers/v6/steinwart05a.html
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from sciinf.core import Posterior, X
from sciinf.diagnostics.conditional import Precision, spectrum_of
from sciinf.diagnostics.scores.perceptron import applied, descended, drawn, some
from sciinf.diagnostics.scores.score import DataScore, Numbers, bent, named, part

Fault = Literal["number", "level", "drift", "size", "repeated"]
FAULTS: tuple[Fault, ...] = ("number", "level", "drift", "size", "repeated")
_SEEN, _LARGEST = 3.0, 30.0
_COUNTS = 1e9


def planted(numbers: Numbers, x: X, sd: Tensor, kinds: Sequence[Fault], generator: torch.Generator) -> X:
    """Plant a fault in each simulation; simulations that a fault has not changed are left out.

    Args:
        numbers: Standardisation of the data.
        x: Simulations, name -> (n, *event).
        sd: Sd that the other numbers leave for each number, in the units of `numbers`, (n, J); 0 where it never
            changes.
        kinds: Kinds of fault, drawn with equal probability.
        generator: Source of randomness.
    """
    fine = {name: value.double() if value.is_floating_point() else value for name, value in x.items()}
    # Double precision gives back the very same numbers, so that equal numbers stay equal.
    y = numbers.standard(fine, dtype=torch.float64)
    unit, first = sd * numbers.scale[1], 0
    names, count = list(y), len(sd)
    which = torch.randint(len(names), (count,), generator=generator)
    changed, found = torch.zeros(count, dtype=torch.bool), dict(x)
    for k, name in enumerate(names):
        size = y[name][0].numel()
        rows = (which == k).nonzero()[:, 0]
        if len(rows):
            noise = unit[rows, first : first + size].reshape(y[name][rows].shape)
            there = (numbers.present(x, name)[rows] > 0) & (noise > 0)
            spoilt = torch.where(there, _spoilt(y[name][rows], noise, kinds, generator), y[name][rows])
            new = _as_measured(numbers, name, x[name][rows], y[name][rows], spoilt)
            found[name] = found[name].clone()
            found[name][rows] = new
            changed[rows] = (new != x[name][rows]).reshape(len(new), -1).any(1)
        first += size
    return {name: value[changed] for name, value in found.items()}


def _as_measured(numbers: Numbers, name: str, old: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Convert standardised numbers to the simulator's form: rounded, counted, or zero below all observed numbers."""
    standard = numbers.standard
    value = standard.inverse({name: new})[name]
    if standard.specs[name].scale == "log":
        value = torch.where(value <= 1.001 * float(standard.get_buffer(f"{name}_floor")), 0.0, value)
    seen = old[old.isfinite()]
    if old.dtype != torch.bool and bool((seen == seen.round()).all()):  # These are whole numbers of any dtype.
        value = value.round().clamp_min(0.0 if bool((seen >= 0).all()) else -math.inf)
    if old.dtype == torch.bool:
        made = value > 0.5
    elif old.is_floating_point():
        made = value.to(old.dtype)
    else:
        made = value.clamp(-_COUNTS, _COUNTS).round().to(old.dtype)
    return torch.where(new == y, old, made)


def _spoilt(y: Tensor, noise: Tensor, kinds: Sequence[Fault], generator: torch.Generator) -> Tensor:
    """Plant a fault in each row of numbers (n, *event)."""
    count, shape = len(y), y.shape[1:]
    inside = _parts(count, shape, generator)
    which = torch.randint(len(kinds), (count,), generator=generator)
    axis = torch.randint(max(1, len(shape)), (count,), generator=generator)
    one = torch.nn.functional.one_hot(
        torch.randint(max(1, math.prod(shape)), (count,), generator=generator), max(1, math.prod(shape))
    ).bool()
    single = torch.tensor([kind == "number" for kind in kinds])[which]
    inside = torch.where(_wide(single, y), one.reshape(y.shape), inside)
    least = (_SEEN / inside.reshape(count, -1).sum(1).sqrt()).clamp_max(1.0)
    size = least * (_LARGEST / least) ** torch.rand(count, generator=generator)
    sign = torch.randint(2, (count,), generator=generator) * 2 - 1
    shift = _wide((size * sign).double(), y) * noise
    white = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    found = y.clone()
    for k, kind in enumerate(kinds):
        rows = (which == k).nonzero()[:, 0]
        if kind in ("drift", "repeated"):
            for a in range(len(shape)):
                of = rows[axis[rows] == a]
                found[of] = _along_axis(kind, y[of], shift[of], inside[of], a + 1)
        else:
            found[rows] = y[rows] + shift[rows] * (white[rows] if kind == "size" else 1.0)
    return torch.where(inside, found, y)


def _along_axis(kind: Fault, y: Tensor, shift: Tensor, inside: Tensor, axis: int) -> Tensor:
    """Faults of a part along an axis: a drift, or the first number of the part repeated."""
    shape = [-1 if a == axis else 1 for a in range(y.ndim)]
    place = torch.arange(y.shape[axis]).reshape(shape)
    first = torch.where(inside, place, y.shape[axis]).amin(axis, keepdim=True).clamp_max(y.shape[axis] - 1)
    if kind == "repeated":
        return y.gather(axis, first.expand_as(y))
    last = torch.where(inside, place, -1).amax(axis, keepdim=True)
    return y + shift * (2 * (place - first) / (last - first).clamp_min(1) - 1)


def _parts(count: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Whether each number is in the damaged part, (count, *shape)."""
    inside = torch.ones(count, *shape, dtype=torch.bool)
    for axis, n in enumerate(shape):
        kind = torch.randint(3, (count, 1), generator=generator)
        ends = torch.randint(n, (count, 2), generator=generator)
        low = torch.where(kind == 0, 0, torch.where(kind == 1, ends[:, :1], ends.amin(1, keepdim=True)))
        high = torch.where(kind == 0, n - 1, torch.where(kind == 1, ends[:, :1], ends.amax(1, keepdim=True)))
        place = torch.arange(n)
        inside &= ((place >= low) & (place <= high)).reshape(count, *[n if a == axis else 1 for a in range(len(shape))])
    return inside


def _wide(value: Tensor, y: Tensor) -> Tensor:
    """Reshape one value per row so that it broadcasts over the numbers of the row."""
    return value.reshape(-1, *[1] * (y.ndim - 1))


FEW = 64
_WIDTH, _DESCENT = 128, 1_000  # Width and training steps of the perceptron that predicts numbers from the others.
_LEAST, _MOST = -6.0, 4.0  # Bounds on the logarithms of sds.
_AXES, _ROWS_EACH = 128, 10
_PASS = 4_096  # Rows in one pass through the perceptron, so that they stay in the cache.


def fit_others(u: Tensor, present: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Learn to predict each number from the others, given rows u (n, J); `present` is 1 for present numbers."""
    return _perceptron(u, present, generator) if u.shape[1] <= FEW else _axes(u)


def others(learned: Mapping[str, Tensor], u: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log sd of each number given the others, (n, J) each, float64."""
    if "axes" not in learned:
        rows = max(1, _PASS // u.shape[1])
        parts = [_each_hidden(learned, *two) for two in zip(u.split(rows), present.split(rows), strict=True)]
        return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])
    precision = Precision(learned["axes"].double(), -learned["less"], 1 / float(learned["rest"]), 0.0)
    own = precision.diagonal
    return u - precision.times(u) / own, (-0.5 * own.log()).expand_as(u)


def _perceptron(u: Tensor, present: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    size, seen = u.shape[1], torch.cat([bent(u).float(), present.float()], dim=1)
    target = u.float()

    def loss(weights: Mapping[str, Tensor]) -> Tensor:
        i = some(len(u), generator)
        share = torch.rand(len(i), 1, generator=generator)
        kept = seen[i, size:] * (torch.rand(len(i), size, generator=generator) < 0.5 + 0.5 * share.sqrt())
        mean, log = applied(weights, torch.cat([seen[i, :size] * kept, kept], dim=1)).chunk(2, dim=1)
        log, hidden = log.clamp(_LEAST, _MOST), seen[i, size:] - kept
        cost = log + 0.5 * ((target[i] - mean) / log.exp()).square()
        return (cost * hidden).sum() / hidden.sum().clamp_min(1)

    return descended(drawn([2 * size, _WIDTH, _WIDTH, 2 * size], generator), loss, _DESCENT)


def _each_hidden(weights: Mapping[str, Tensor], u: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Predict each number by a pass of the perceptron in which only this number is hidden.

    Hiding a number subtracts its part from the first layer, and only two outputs of the last layer are needed. This
    takes a third of the work of J passes of the perceptron for each row.
    """
    size, kept = u.shape[1], present.float()
    seen, (values, marks) = bent(u).float() * kept, weights["weight0"].split(size)
    whole = seen @ values + kept @ marks + weights["bias0"]
    h = silu(whole[:, None] - seen[..., None] * values - kept[..., None] * marks)  # The shape is (n, J, hidden).
    h = silu(h @ weights["weight1"] + weights["bias1"])
    mean, log = (torch.einsum("njh,hj->nj", h, each) for each in weights["weight2"].split(size, dim=1))
    middle, width = weights["bias2"].split(size)
    return (mean + middle).double(), (log + width).double().clamp(_LEAST, _MOST)


def _axes(u: Tensor) -> dict[str, Tensor]:
    count, size = u.shape
    most = max(1, min(_AXES, count // _ROWS_EACH, size - 1))
    spread, axes = (each.flip(0)[:most].contiguous() for each in spectrum_of(u))
    rest = ((u.square().sum() / count - spread.sum()) / (size - len(spread))).clamp_min(1e-3)
    less = (1 / rest - 1 / spread.clamp_min(float(rest))).clamp_min(0)
    return {"axes": axes.float(), "less": less, "rest": rest}


_HIDDEN, _STEPS = 128, 500
_DROPPED = 0.5  # Share of hidden units dropped in training, because there are many faults and few simulations.
_POOL, _NUMBERS = 30_000, 8_000_000  # Largest number of faults, and of numbers in them.
_ROWS = 2_048
_FEW = 200  # Up to this count of numbers, each number is a feature.
_EACH = 64  # Up to this many indices of an axis, each index gives features.
_TOP, _SOME = 10, 5


@dataclass(frozen=True)
class PlantedFaults(DataScore):
    """Data score: how much the data resemble simulations with a planted fault.

    Args:
        kinds: Kinds of fault to plant, some of "number", "level", "drift", "size" and "repeated".

    Raises:
        ValueError: If `kinds` is empty, or contains an unknown kind.
    """

    kinds: tuple[Fault, ...] = FAULTS

    def __post_init__(self) -> None:
        if not self.kinds or set(self.kinds) - set(FAULTS):
            raise ValueError(f"kinds are some of {FAULTS}, got {self.kinds!r}")

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from simulations, name -> (n, *event); return the learned tensors."""
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
        """Strangeness of each data set of a batch, (batch,)."""
        seen = _seen_in_parts(Numbers(posterior.observables, learned), learned, x)
        mean, sd = learned["centre"]
        return softplus(applied(part(learned, "network/"), bent((seen - mean) / sd))[:, 0].double())

    def _faults(
        self, numbers: Numbers, learned: Mapping[str, Tensor], x: X, noise: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Features of simulations with a fault; `noise` is the sd of each number that scales the faults, (n, J)."""
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
    """Features that the network receives for data, (batch, features), float64."""
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
    """Features along the first axis of an event, from z and from the numbers themselves, (batch, n, ...)."""
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
