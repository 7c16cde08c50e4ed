r"""Planted faults: a network that tells simulations from simulations with a fault says of new data which they are like.

Faults of generic kinds, places and sizes are planted in fresh simulations. With x a simulation and x' one with a fault,
phi(x) what is seen of data and f a perceptron,

    E[log(1 + exp f(phi(x))) + log(1 + exp -f(phi(x')))]

is least for f = log p(x') / p(x), which is the best test of such faults together. The distance is log(1 + exp f).

What is seen: with z = (u - m) / s how far each number is from what the others say of it, in its sds, the numbers u, z
and log s where they are few; the largest |z|, the mean, size and likelihood of all; and along every axis how much
neighbours differ, how often they are equal, and means, sizes and slopes of the parts at each index.

**What the others say** of a number is a mean and an sd, learned from simulations. Of up to 64 numbers a perceptron is
shown those that are left when some are hidden at random, and which; it says mean m and sd s of the hidden ones, which
makes E sum_hidden [log s + (u - m)^2 / 2 s^2] small. Then each number is hidden in turn. Of more, the numbers are as if
normal with q leading axes and the same variance r beside them,

    P = (A A^T + r I)^-1,   m_k = u_k - (P u)_k / P_kk,   s_k = P_kk^(-1/2).

**Faults** are what may go wrong with a measurement of any kind, in any place and size. Of every simulation one
observable is damaged. A part of it is drawn: along each axis one index, a window from one random index to another, or
the whole, each as often. With s the sd that the other numbers leave a number, and e a size,

| kind | what becomes of a number y of the part |
|---|---|
| number | y + e s, of one number anywhere |
| level | y + e s |
| drift | y + e s t, t from -1 to 1 along an axis |
| size | y + e s times a normal number |
| repeated | the number at the part's first index of an axis |

These are the kinds that `diagnostics.localise` names. e has a random sign, and its size is log-uniform from what the
best test of a part of k numbers could just see, min(1, 3 / sqrt(k)), to 30. What is rounded or counted is rounded
after, and what no longer differs from the simulation is no fault and left out.

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
    """Simulations with a fault each, those that a fault has not changed left out.

    Args:
        numbers: How data are standardised.
        x: Simulations, name -> (n, *event).
        sd: What the other numbers leave of each, in the units of `numbers`, (n, J); 0 where it never changes.
        kinds: Of fault, each as often.
        generator: Source of randomness.
    """
    fine = {name: value.double() if value.is_floating_point() else value for name, value in x.items()}
    y = numbers.standard(fine, dtype=torch.float64)  # which gives back the very numbers, so that equal ones stay so
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
    """Standardised numbers as the simulator makes them: rounded, counted, or zero below all that was seen."""
    standard = numbers.standard
    value = standard.inverse({name: new})[name]
    if standard.specs[name].scale == "log":
        value = torch.where(value <= 1.001 * float(standard.get_buffer(f"{name}_floor")), 0.0, value)
    seen = old[old.isfinite()]
    if old.dtype != torch.bool and bool((seen == seen.round()).all()):  # whole numbers, whatever their dtype
        value = value.round().clamp_min(0.0 if bool((seen >= 0).all()) else -math.inf)
    if old.dtype == torch.bool:
        made = value > 0.5
    elif old.is_floating_point():
        made = value.to(old.dtype)
    else:
        made = value.clamp(-_COUNTS, _COUNTS).round().to(old.dtype)
    return torch.where(new == y, old, made)


def _spoilt(y: Tensor, noise: Tensor, kinds: Sequence[Fault], generator: torch.Generator) -> Tensor:
    """Numbers (n, *event) with a fault each."""
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
    """A drift along an axis, or the first number of the part again and again."""
    shape = [-1 if a == axis else 1 for a in range(y.ndim)]
    place = torch.arange(y.shape[axis]).reshape(shape)
    first = torch.where(inside, place, y.shape[axis]).amin(axis, keepdim=True).clamp_max(y.shape[axis] - 1)
    if kind == "repeated":
        return y.gather(axis, first.expand_as(y))
    last = torch.where(inside, place, -1).amax(axis, keepdim=True)
    return y + shift * (2 * (place - first) / (last - first).clamp_min(1) - 1)


def _parts(count: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Whether a number is in the part, (count, *shape)."""
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
    """One value for each row, over its numbers."""
    return value.reshape(-1, *[1] * (y.ndim - 1))


FEW = 64
_WIDTH, _DESCENT = 128, 1_000  # of the network that says what the others say
_LEAST, _MOST = -6.0, 4.0  # logarithms of sds
_AXES, _ROWS_EACH = 128, 10
_PASS = 4_096  # rows through the perceptron at once, so that they stay in the cache


def fit_others(u: Tensor, present: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What is learned of rows u (n, J), present where 1."""
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
    """The perceptron of rows in which one number is hidden, at that number. Hiding it takes its part from the first
    layer, and of the last layer two outputs are needed: that is a third of the work of J perceptrons of each row.
    """
    size, kept = u.shape[1], present.float()
    seen, (values, marks) = bent(u).float() * kept, weights["weight0"].split(size)
    whole = seen @ values + kept @ marks + weights["bias0"]
    h = silu(whole[:, None] - seen[..., None] * values - kept[..., None] * marks)  # (n, J, hidden)
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
