r"""Standardisation of data to numbers of order one, by statistics of the training rows, which are stored as buffers.

For each observable, with mean m and standard deviation s over the entries that are present,

    u = (x - m) / s   (log x in place of x for scale="log"; arcsinh((x - c) / b) for heavy tails, see below),
    z = u                                   for |u| <= 5,
    z = sign(u) (5 + log(|u| - 4))          beyond,

and z = 0 for missing entries. The map from u to z is monotone, and continuous together with its derivative. It is
needed because simulations from the prior have heavy tails, which would otherwise dominate the gradients. m and s are
numbers per element, but shared along axes called "time" or "item" and along image axes. For measurement times
(`timed`), m and s are one number each. For scale="log" the logarithm is taken of max(x, f), with f half the smallest
positive entry of the training rows. So zeros stay finite and differ from all positive training values.

**Heavy tails.** Data over many powers of ten are standardised by an inverse hyperbolic sine. An entry has heavy tails
if its standard deviation is more than `RATIO` times 1.48 times the median of |x - median|, over the values that are not
the median. (The ratio is 1 for a Gaussian, 1.4 for an exponential distribution.) Nearly all values of such an entry are
within a small fraction of one standard deviation from the middle. There a network cannot distinguish them. Such an
entry becomes

    y = arcsinh((x - c) / b),

which is linear near c and logarithmic far away. b is the 10 % quantile of the values |x - c| that are not 0, so most
values are in the logarithmic part. c is the median. If one side reaches ten times as far as the other, c is the 1 %
quantile on the short side, which is 0 for counts.

Shapes: x (rows, *event); c, b (*event), with length 1 along shared axes. b is 0 for entries without heavy tails.

References:
    | Updating formulae and a pairwise algorithm for computing sample variances (Chan, Golub & LeVeque, 1979)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sciinf.core.learned import Batch
from sciinf.core.observable import Observable, X
from sciinf.core.precision import rounded_away
from sciinf.core.summary import IMAGE_AXES, expand_mask
from sciinf.networks.summaries.timed import times_of

SHARED_AXES = ("time", "item", *IMAGE_AXES)
LIMIT = 5.0  # Number of standard deviations beyond which values are compressed logarithmically.
_ARCSINH = ("centre", "scale")  # Buffers for heavy tails. The scale of an entry without heavy tails is 0.
CONSTANT = 1e-12  # A spread below this fraction of the mean is rounding, not variation.


class Standardise(nn.Module):
    """Standardisation of every observable that is not a mask.

    Before `fit`, only values beyond 5 in size change.

    Args:
        observables: Observables of the simulator: name -> description. `<name>_mask` of dtype bool is the mask of
            `<name>`.

    Raises:
        ValueError: If a mask does not have dtype bool, or its shape is not the leading axes of its observable's shape.
    """

    def __init__(self, observables: Mapping[str, Observable]) -> None:
        super().__init__()
        masks = {name: f"{name}_mask" for name in observables if f"{name}_mask" in observables}
        self.rounded: dict[str, str] = {}
        self.specs = {name: spec for name, spec in observables.items() if name not in masks.values()}
        self.masks = {name: mask for name, mask in masks.items() if name in self.specs}
        for name in times_of(observables):
            self.specs[name] = replace(self.specs[name], dims=("time",))  # All times share one mean and sd.
        for name, mask in self.masks.items():
            _check_mask(mask, observables[mask], observables[name])
        for name, spec in self.specs.items():
            if "." in name:
                raise ValueError(
                    f"the observable {name!r} has a dot in its name, which torch does not allow; rename it"
                )
            shape = [1 if axis in _shared_axes(spec) else n for axis, n in enumerate(spec.shape)]
            self.register_buffer(f"{name}_mean", torch.zeros(shape, dtype=torch.float64))
            self.register_buffer(f"{name}_sd", torch.ones(shape, dtype=torch.float64))
            for kind in _ARCSINH:
                self.register_buffer(f"{name}_{kind}", torch.zeros(shape, dtype=torch.float64))
            if spec.scale == "log":
                tiny = torch.tensor(torch.finfo(torch.float32).tiny, dtype=torch.float64)
                self.register_buffer(f"{name}_floor", tiny)
        self._told: frozenset[str] | None = None
        self.register_load_state_dict_pre_hook(_with_arcsinh)
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())
        self.register_state_dict_post_hook(_without_arcsinh)

    def fit(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Compute the statistics of the training rows.

        The moments take one pass over the rows. An observable with scale="log" needs a pass before it. The search for
        heavy tails reads the first rows after it. An observable with heavy tails then needs a further pass.

        Args:
            batches: Function that returns the batches of one pass; each call gives the same rows.

        Raises:
            ValueError: If there are no rows, an observable is missing, or an observable with scale="log" has no
                positive entry.
        """
        logs = [name for name, spec in self.specs.items() if spec.scale == "log"]
        if logs:
            self._fit_floors(logs, batches())
        for name in self.specs:
            for kind in _ARCSINH:
                self.get_buffer(f"{name}_{kind}").zero_()
        self._forget()
        moments = self._moments(list(self.specs), batches())
        self._fit_arcsinh({name: moment.spread() for name, moment in moments.items()}, batches())
        heavy = list(self.heavy())
        for name, moment in {**moments, **self._moments(heavy, batches() if heavy else iter(()))}.items():
            self.get_buffer(f"{name}_mean").copy_(moment.mean)
            self.get_buffer(f"{name}_sd").copy_(moment.sd())
            if self.specs[name].dtype == "float32" and self.specs[name].scale == "linear":
                self.rounded[name] = rounded_away(moment.mean, moment.spread())

    def tell_rounded(self) -> None:
        """Warn of observables whose variation is lost by rounding to float32."""
        for name, words in self.rounded.items():
            if words:
                warnings.warn(
                    f"{name!r} has {words}: what varies is rounded away. Declare it with Observable(..., "
                    "dtype='float64'), and return it in that precision",
                    stacklevel=4,
                )

    def forward(self, x: X, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Standardised data.

        Args:
            x: Observables and masks: name -> (batch, *event), of any dtype.
            dtype: Dtype of the result.

        Returns:
            Name -> (batch, *event), for the observables that are not masks.

        Raises:
            ValueError: If an observable or its mask is missing, or has a wrong shape.
        """
        result = {}
        for name in self.specs:
            value, mask = self._linear(name, x)
            mean, sd = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_sd").to(value.dtype)
            # The mean is subtracted in two parts. The rounding error of one part would shift z.
            # This matters if mean / sd is large.
            first = mean.to(value.dtype)
            rest = (mean - first.to(mean.dtype)).to(value.dtype)
            z = squash(((value - first) - rest) / sd).to(dtype)
            result[name] = z if mask is None else torch.where(mask, z, 0.0)
        return result

    def inverse(self, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Data whose standardised values are z, in float64."""
        result = {}
        for name, value in z.items():
            x = unsquashed(value.double()) * self.get_buffer(f"{name}_sd") + self.get_buffer(f"{name}_mean")
            centre, scale = (self.get_buffer(f"{name}_{kind}") for kind in _ARCSINH)
            x = torch.where(scale > 0, centre + scale * torch.where(scale > 0, x, 0.0).sinh(), x)
            result[name] = x.exp() if self.specs[name].scale == "log" else x
        return result

    def _take(self, name: str, x: X) -> tuple[Tensor, Tensor | None]:
        """Values of an observable as floats, and its mask for all entries, or None without a mask."""
        spec = self.specs[name]
        for needed in (name, self.masks.get(name, name)):
            if needed not in x:
                raise ValueError(f"the data lack the observable {needed!r}; they have {sorted(x)}")
        value = x[name]
        if tuple(value.shape[1:]) != spec.shape:
            raise ValueError(f"{name!r} has shape {tuple(value.shape[1:])} per row, expected {spec.shape}")
        mask = expand_mask(x[self.masks[name]], value.shape) if name in self.masks else None
        return value.to(torch.float64 if value.dtype in (torch.float64, torch.int64) else torch.float32), mask

    def _linear(self, name: str, x: X) -> tuple[Tensor, Tensor | None]:
        """Values and mask as in `_take`, after the logarithm for scale="log" and the arcsinh for heavy tails."""
        value, mask = self._take(name, x)
        if self.specs[name].scale == "log":
            value = value.clamp(min=float(self.get_buffer(f"{name}_floor"))).log()
        if name in self.heavy():
            centre, scale = (self.get_buffer(f"{name}_{kind}") for kind in _ARCSINH)
            value = value.double()
            value = torch.where(scale > 0, ((value - centre) / torch.where(scale > 0, scale, 1.0)).asinh(), value)
        return value, mask

    def _moments(self, names: list[str], batches: Iterator[Batch]) -> dict[str, _Moments]:
        """Means and spreads of the observables with the given names.

        Raises:
            ValueError: If there are names but no rows.
        """
        moments, rows = {name: _Moments(self.specs[name]) for name in names}, 0
        for batch in batches:
            rows += len(batch)
            for name, moment in moments.items():
                moment.add(*self._linear(name, batch.x))
        if names and not rows:
            raise ValueError("there are no rows to standardise by: the store holds no simulation that succeeded")
        return moments

    def _fit_arcsinh(self, spreads: Mapping[str, Tensor], batches: Iterator[Batch]) -> None:
        """Set centres and scales of the observables with heavy tails, from the first rows, in one pass."""
        specs = {n: one for n, one in self.specs.items() if one.dtype != "bool" and one.scale != "log"}
        most = {n: max(1, MOST // max(1, math.prod(one.shape))) for n, one in specs.items() if not one.control}
        parts, rows = {name: list[tuple[Tensor, Tensor]]() for name in most}, 0
        for batch in batches:
            for name in (name for name in most if rows < most[name]):
                value, mask = self._linear(name, batch.x)
                parts[name].append((value, torch.ones_like(value, dtype=torch.bool) if mask is None else mask))
            rows += len(batch)
            if rows >= max(most.values(), default=0):
                break
        for name, part in parts.items():
            value, present = (torch.cat(each)[: most[name]].cpu() for each in zip(*part, strict=True))
            found = arcsinh_scales(value, present, _shared_axes(specs[name]), spreads[name])
            for kind, each in zip(_ARCSINH, found, strict=True):
                self.get_buffer(f"{name}_{kind}").copy_(each)
        self._forget()

    def _forget(self) -> None:
        self._told = None

    def heavy(self) -> frozenset[str]:
        """Names of the observables with an entry that has heavy tails; cached, because a GPU waits for each reading."""
        if self._told is None:
            scales = {name: self.get_buffer(f"{name}_{_ARCSINH[1]}") for name in self.specs}
            self._told = frozenset(n for n, scale in scales.items() if not scale.is_meta and bool(scale.any()))
        return self._told

    def _fit_floors(self, names: list[str], batches: Iterator[Batch]) -> None:
        smallest, tiny = dict.fromkeys(names, torch.inf), dict.fromkeys(names, 0.0)
        for batch in batches:
            for name in names if len(batch) else ():
                value, mask = self._take(name, batch.x)
                positive = value > 0 if mask is None else (value > 0) & mask
                smallest[name] = min(smallest[name], float(torch.where(positive, value, torch.inf).amin()))
                tiny[name] = torch.finfo(value.dtype).tiny
        for name, least in smallest.items():
            if least == torch.inf and tiny[name] > 0.0:
                raise ValueError(f"{name!r} has scale='log' but no positive entry; give it scale='linear'")
            self.get_buffer(f"{name}_floor").fill_(max(0.5 * least, tiny[name]))


def _with_arcsinh(module: Standardise, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Add zero centres and scales to loaded weights that lack them, as for observables without heavy tails."""
    for name in module.specs:
        for kind in _ARCSINH:
            buffer = f"{name}_{kind}"
            weights.setdefault(f"{prefix}{buffer}", torch.zeros_like(module.get_buffer(buffer)))


def _without_arcsinh(module: Standardise, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Leave out centres and scales of observables without heavy tails, to keep the older format of saved fits."""
    for name in module.specs.keys() - module.heavy():
        for kind in _ARCSINH:
            weights.pop(f"{prefix}{name}_{kind}", None)


def squash(u: Tensor) -> Tensor:
    """u if |u| is at most 5, and sign(u) (5 + log(|u| - 4)) otherwise."""
    size = u.abs().clamp(max=torch.finfo(torch.float32).max)
    beyond = LIMIT + (size - LIMIT + 1.0).clamp(min=1.0).log()
    return torch.where(size > LIMIT, u.sign() * beyond, u)


def unsquashed(z: Tensor) -> Tensor:
    """The inverse of `squash`."""
    size = z.abs()
    return torch.where(size > LIMIT, z.sign() * (LIMIT - 1.0 + (size - LIMIT).exp()), z)


class _Moments:
    """Mean and spread of one observable, updated batch by batch in double precision (Chan et al.)."""

    def __init__(self, spec: Observable) -> None:
        self.axes = (0, *(axis + 1 for axis in _shared_axes(spec)))
        shape = [1 if axis in _shared_axes(spec) else n for axis, n in enumerate(spec.shape)]
        self.count, self.mean, self.squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))

    def add(self, value: Tensor, mask: Tensor | None) -> None:
        value = value.double()
        present = torch.ones_like(value, dtype=torch.bool) if mask is None else mask
        count = present.sum(self.axes, keepdim=True)
        mean = torch.where(present, value, 0.0).sum(self.axes, keepdim=True) / count.clamp(min=1)
        squares = torch.where(present, value - mean, 0.0).square().sum(self.axes, keepdim=True)
        count, mean, squares = (part.squeeze(0).cpu() for part in (count.double(), mean, squares))
        total = self.count + count
        share = count / total.clamp(min=1)
        step = mean - self.mean
        self.squares = self.squares + squares + step.square() * self.count * share
        self.mean = self.mean + step * share
        self.count = total

    def sd(self) -> Tensor:
        """Standard deviation, or 1 if the values do not vary or none was present."""
        spread = self.spread()
        return torch.where(spread > 0, spread, 1.0)

    def spread(self) -> Tensor:
        """Standard deviation, or 0 if the values do not vary or none was present."""
        sd = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(sd > CONSTANT * self.mean.abs(), sd, 0.0)


def _shared_axes(spec: Observable) -> list[int]:
    return [axis for axis, name in enumerate(spec.dims) if name in SHARED_AXES]


def _check_mask(name: str, mask: Observable, spec: Observable) -> None:
    if mask.dtype != "bool" or mask.shape != spec.shape[: len(mask.shape)]:
        raise ValueError(
            f"the mask {name!r} has dtype {mask.dtype} and shape {mask.shape}; expected bool and {spec.shape} or its "
            "leading axes"
        )


RATIO = 5.0
MOST = 2**22  # Largest number of values that are examined for heavy tails.
_SIDE, _SMALL = 10.0, 0.1
_GAUSSIAN = 1.4826  # Standard deviation of a Gaussian divided by its median absolute deviation.


def arcsinh_scales(x: Tensor, present: Tensor, shared: list[int], sd: Tensor) -> tuple[Tensor, Tensor]:
    """Centres c and scales b of the entries of an observable; both are 0 for entries without heavy tails.

    Args:
        x: Values of some rows, (rows, *event).
        present: False for missing values, (rows, *event).
        shared: Axes of the event along which entries share c and b.
        sd: Standard deviations over all rows, (*event), with length 1 along shared axes.

    Returns:
        c and b, in float64 and of sd's shape.
    """
    kept = [axis for axis in range(x.ndim - 1) if axis not in shared]
    order = [*(axis + 1 for axis in kept), 0, *(axis + 1 for axis in shared)]
    values = x.double().permute(order).reshape(sd.numel(), -1)
    values = torch.where(present.permute(order).reshape(values.shape), values, torch.nan)
    low, median, high = _quantiles(values, 0.01, 0.5, 0.99)
    (deviation,) = _quantiles(_distances(values, median), 0.5)
    heavy = sd.double().flatten() > RATIO * _GAUSSIAN * deviation
    up, down = high - median, median - low
    centre = torch.where(up > _SIDE * down, low, torch.where(down > _SIDE * up, high, median))
    (scale,) = _quantiles(_distances(values, centre), _SMALL)
    centre, scale = (torch.where(heavy, each, 0.0).reshape(sd.shape) for each in (centre, scale))
    return centre, scale


def _distances(values: Tensor, centre: Tensor) -> Tensor:
    """Distances |x - c| that are not 0; NaN in place of zero distances."""
    found = (values - centre[:, None]).abs()
    return torch.where(found > 0, found, torch.nan)


def _quantiles(values: Tensor, *levels: float) -> tuple[Tensor, ...]:
    """Quantiles of the finite values along the last axis, one tensor (n,) per level; NaN if there are no values."""
    ordered = values.sort(-1).values  # NaN values come last.
    count = torch.isfinite(values).sum(-1)
    places = [((count - 1).clamp_min(0) * level).round().long() for level in levels]
    return tuple(ordered.gather(-1, place[:, None])[:, 0] for place in places)
