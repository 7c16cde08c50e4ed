"""Simulators from a simulator and a prior in sbi's convention: theta (batch, D) -> x (batch, *event), one observable.

Such simulators draw from the global random states. Before each call, the states of torch, numpy and Python are seeded
from the generator, and they are restored after the call. A process runs one call at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.core.law_json import law_to_json
from sciinf.core.observation import convert
from sciinf.core.prior import global_seed
from sciinf.simulators.wrappers.named_function import name_of


def sbi(
    simulator: Callable[[Tensor], Any],
    prior: Any,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    observable: str = "x",
    spec: Observable | None = None,
    name: str | None = None,
    block: int = 4096,
) -> SbiSimulator:
    """Make a simulator of a simulator and a prior in sbi's convention.

    Args:
        simulator: Function from theta (batch, D) to x (batch, *event): tensors, arrays or quantities of astropy. It
            draws from the global random states.
        prior: A distribution of torch.distributions over (D,), `BoxUniform`, `MultipleIndependent`, a list of
            distributions, the result of sbi's `process_prior` for one of them, or a `Prior`. A `Prior` has its own
            names and units.
        names: Names of the parameters; by default theta_0, theta_1, ...
        units: Units of the parameters; dimensionless by default.
        observable: Name of x.
        spec: Shape, unit, axes and dtype of x. By default, shape and unit are found by two simulations, and the dtype
            is float32.
        name: Name of the simulator; by default the function's name.
        block: Number of rows per block of a store.

    Raises:
        TypeError: If the prior is not a distribution that can be stored as JSON, or the simulator cannot be called.
        ValueError: If the numbers of names, units and dimensions differ, or the simulator is not batched.

    Examples:
        >>> prior = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> sbi(lambda theta: theta + torch.randn_like(theta), prior).observables
        {'x': Observable(shape=(2,), unit='', dims=(), dtype='float32', scale='linear')}
    """
    if not callable(simulator):
        raise TypeError(f"the simulator is a function theta -> x, got {simulator!r}; it comes first, then the prior")
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is what the simulator is called, got {name!r}; parameters are called by `names`")
    named = _prior(prior, names, units)
    label = name or name_of(simulator)
    spec = spec or _observable(simulator, named, observable, label)
    return SbiSimulator(named, simulator, {observable: spec}, label, block)


def _prior(prior: Any, names: Sequence[str] | None, units: Sequence[str] | None) -> Prior:
    if isinstance(prior, Prior):
        if names is not None or units is not None:
            raise ValueError(f"{prior} has names and units of its own; leave out `names` and `units`")
        return prior
    laws = _laws(prior)
    widths = [law.event_shape[0] if law.event_shape else 1 for law in laws]
    names = tuple(names) if names is not None else tuple(f"theta_{i}" for i in range(sum(widths)))
    units = tuple(units) if units is not None else ("",) * sum(widths)
    if len(names) != sum(widths) or len(units) != sum(widths):
        raise ValueError(f"the prior has {sum(widths)} dimensions, got {len(names)} names and {len(units)} units")
    return _named_prior(laws, widths, names, units)


@final
class SbiSimulator(Simulator):
    """The simulator that `sbi` makes. It can be pickled if its function is defined at the top level of a module."""

    def __init__(
        self,
        prior: Prior,
        function: Callable[[Tensor], Any],
        observables: dict[str, Observable],
        name: str,
        block: int,
    ) -> None:
        self.prior, self.function, self.observables, self.name, self.block = prior, function, observables, name, block

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """Simulate a batch.

        Raises:
            ValueError: If theta or the function's result has a wrong shape, or a unit does not convert.
        """
        if theta.ndim != 2 or theta.shape[1] != len(self.prior):
            raise ValueError(f"theta has shape {tuple(theta.shape)}, expected (batch, {len(self.prior)})")
        name, spec = next(iter(self.observables.items()))
        with _all_seeded(generator):
            x = _tensor(self.function(theta.clone()), spec, name)
        if tuple(x.shape) != (len(theta), *spec.shape):
            raise ValueError(
                f"the simulator {self.name!r} returned {name!r} with shape {tuple(x.shape)}, expected "
                f"{(len(theta), *spec.shape)}"
            )
        return {name: x.detach().to(theta.device, spec.torch_dtype)}


@contextmanager
def _all_seeded(generator: torch.Generator) -> Iterator[None]:
    with global_seed(generator) as seed:
        python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (the state sbi's users draw from)
        random.seed(seed)
        np.random.seed(np.random.SeedSequence(seed).generate_state(4))  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _laws(prior: Any) -> list[td.Distribution]:
    """Independent distributions of which a prior of sbi consists, each over one number or over (k,)."""
    if isinstance(prior, list | tuple):
        return [law for part in prior for law in _laws(part)]
    if not isinstance(prior, td.Distribution):
        raise TypeError(
            f"the prior is {type(prior).__name__}, expected a distribution of torch.distributions, BoxUniform, "
            "MultipleIndependent or a list of distributions: a custom prior has no bijection to R^D. The order is "
            "wrappers.sbi(simulator, prior)"
        )
    parts = getattr(prior, "dists", None)  # sbi's MultipleIndependent has this attribute.
    if parts is not None:
        return [law for part in parts for law in _laws(part)]
    inner = getattr(prior, "prior", None)  # sbi's process_prior wraps a distribution in such an object.
    if isinstance(inner, td.Distribution):
        return _laws(inner)
    if prior.event_shape == (1,) and prior.batch_shape == () and isinstance(prior, td.Independent):
        return _laws(prior.base_dist)
    if prior.batch_shape not in ((), (1,)) or len(prior.event_shape) > 1 or (prior.batch_shape and prior.event_shape):
        raise ValueError(
            f"the prior {prior!r} has batch shape {tuple(prior.batch_shape)} and event shape "
            f"{tuple(prior.event_shape)}; one law over (D,) is expected: wrap it in Independent(law, 1) or BoxUniform"
        )
    if isinstance(prior, td.Independent) and isinstance(prior.base_dist, td.Uniform):
        prior = td.Independent(prior.base_dist, prior.reinterpreted_batch_ndims)  # From BoxUniform.
    law_to_json(prior)
    return [prior]


def _named_prior(
    laws: Sequence[td.Distribution], widths: Sequence[int], names: Sequence[str], units: Sequence[str]
) -> Prior:
    data: dict[str, list[Any]] = {"names": [], "units": [], "laws": []}
    start = 0
    for law, width in zip(laws, widths, strict=True):
        own, own_units = names[start : start + width], units[start : start + width]
        start += width
        part = Prior.joint(own, law, own_units) if law.event_shape else Prior(**{own[0]: (law, own_units[0])})
        for key, value in part.to_json().items():
            data[key].extend(value)
    return Prior.from_json(data)


def _tensor(value: Any, spec: Observable, name: str) -> Tensor:
    """The function's result as a tensor in the observable's unit, which is also assumed for a result without a unit."""
    unit = getattr(value, "unit", None)
    return torch.as_tensor(value if unit is None else convert(value.value, unit, spec, name))


def _observable(simulator: Callable[[Tensor], Any], prior: Prior, name: str, label: str) -> Observable:
    """Find the shape and unit of x from a batch of two rows and a batch of three rows.

    A simulator that is not batched cannot pass both by accident.
    """
    shapes, unit = [], ""
    for n in (2, 3):
        generator = torch.Generator().manual_seed(n)
        theta = prior.sample(n, generator=generator)
        with _all_seeded(generator):
            value = simulator(theta)
        unit = str(getattr(value, "unit", ""))
        shapes.append(tuple(_tensor(value, Observable((), unit), name).shape))
    if any(shape[:1] != (n,) for n, shape in zip((2, 3), shapes, strict=True)) or shapes[0][1:] != shapes[1][1:]:
        raise ValueError(
            f"the simulator {label!r} is not batched: theta of shapes (2, {len(prior)}) and (3, {len(prior)}) gave x "
            f"of shapes {shapes[0]} and {shapes[1]}; expected (2, *event) and (3, *event). Loop over its rows first, "
            "for instance by sbi.utils.user_input_checks.process_simulator(simulator, prior, False)"
        )
    return Observable(shapes[0][1:], unit)
