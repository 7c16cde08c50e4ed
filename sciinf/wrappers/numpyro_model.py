"""A numpyro model as a simulator: its latent sites are the prior, its observed sites the observables.

    def model(times, y=None):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("time", len(times)):
            numpyro.sample("y", dist.Normal(jnp.exp(-rate * times), 0.1), obs=y)

    simulator = wrappers.numpyro(model, args=(times,), observed={"y": Observable((50,), "mV", ("time",))})

The model is called without data, `model(*args, **kwargs)`, so whatever argument carries the data must default to None;
called so, it simulates. Where the data are known, its observed sites are conditioned on them by their names
(`numpyro.handlers.condition`), whatever the model calls its arguments. The same model so gives three things that
cannot contradict each other: simulations, log p(x | theta), and the posterior by NUTS.

A vector site `b` of shape (2,) becomes the parameters `b_0` and `b_1`. Deterministic sites are left out. Latent sites
must be independent of each other: a hierarchical model is written with standard laws and deterministic functions of
them (`numpyro.handlers.reparam` with `LocScaleReparam` does it for locations and scales).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.wrappers.jax_function import MappedFunction
from sciinf.wrappers.named_function import (
    check_result,
    columns_of,
    draw_seed,
    name_of,
    suggest,
    tensors_of,
)
from sciinf.wrappers.numpyro_density import NumpyroLikelihood, NumpyroReference
from sciinf.wrappers.numpyro_sites import ModelSites, precision, read_sites


def numpyro(
    model: Callable[..., Any],
    *,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    observed: str | Sequence[str] | Mapping[str, Observable],
    units: Mapping[str, str] | None = None,
    name: str | None = None,
    block: int = 4096,
    double: bool = True,
    observe: Callable[..., Any] | None = None,
) -> NumpyroSimulator:
    """A simulator from a numpyro model.

    Args:
        model: The model; called as `model(*args, **kwargs)` it must draw its observed sites, not be given them.
        args: Its positional arguments: covariates, times, sizes.
        kwargs: Its keyword arguments.
        observed: Names of the observed sites, or name -> `Observable` for units and axes; shapes and dtypes are those
            of the model otherwise.
        units: Parameter (or vector site) -> unit; dimensionless where left out.
        name: What the simulator is called; the model's name when left out.
        block: Rows per block of a store, and largest batch of the likelihood.
        double: Whether JAX computes in float64, simulations, likelihood and NUTS alike; else in float32, unless the
            process asked JAX for x64. Results are cast to the observables' dtypes either way.
        observe: Called with paths of data files, returns the observation: observable name -> array. Columns named like
            the observables are read when left out.

    Raises:
        TypeError: If the model cannot be called, or `observed` is of the wrong kind.
        ValueError: If the model needs its data, lacks a site, has latent sites that are no independent prior, or needs
            `double`.
    """
    if not callable(model):
        raise TypeError(f"the model must be a function with numpyro.sample statements, got {model!r}")
    label = name or name_of(model)
    call = functools.partial(model, *args, **(kwargs or {}))
    wanted = (observed,) if isinstance(observed, str) else tuple(observed)
    sites = read_sites(call, wanted, double=double)
    observables = {site: _specify(site, sites.shapes[site], sites.dtypes[site], observed) for site in wanted}
    prior = Prior(
        **{n: (law, unit) for n, law, unit in zip(sites.names, sites.laws, _units(sites, units), strict=True)}
    )
    return NumpyroSimulator(sites, prior, observables, name=label, block=block, double=double, observe=observe)


@final
class NumpyroSimulator(Simulator):
    """What `numpyro` makes; it pickles where its model does (defined at the top of a module)."""

    def __init__(
        self,
        sites: ModelSites,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        name: str,
        block: int,
        double: bool,
        observe: Callable[..., Any] | None,
    ) -> None:
        self.prior, self.observables, self.name, self.block, self.reader = prior, observables, name, block, observe
        self.double = double
        self.mapped = MappedFunction(sites.simulate, prior, True)
        self.log_likelihood = NumpyroLikelihood(sites, prior, double=double, chunk=block)
        self.reference = NumpyroReference(sites, prior, observables, double=double)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        """Simulate a batch; row i draws from a key of its own, fold_in(key, i)."""
        columns, seed, n = columns_of(self.prior, theta), draw_seed(generator), len(theta)
        # one precision for all of a model: JAX confuses numpy constants of a function traced in both
        with precision(self.double):
            drawn = {k: np.asarray(v) for k, v in self.mapped(columns, seed).items()}
        rows = len(next(iter(drawn.values())))
        arrays, lost = check_result(self.observables, drawn, (rows,), what=f"the model {self.name!r}")
        status = np.where(lost[:n], Status.NON_FINITE, Status.OK).astype(np.uint8)
        messages = {int(i): "NaN or infinity in an integer or boolean observable" for i in np.flatnonzero(lost[:n])}
        x = tensors_of({k: np.array(v[:n]) for k, v in arrays.items()}, theta.device)
        return Outcome(x, torch.from_numpy(status).to(theta.device), messages)


def _specify(
    site: str, shape: tuple[int, ...], dtype: np.dtype, observed: str | Sequence[str] | Mapping[str, Observable]
) -> Observable:
    kinds = {"f": "float32", "i": "int64", "u": "int64", "b": "bool"}
    if dtype.kind not in kinds:
        raise ValueError(f"the observed site {site!r} holds {dtype} values, expected real numbers")
    if not isinstance(observed, Mapping):
        return Observable(shape, dtype=kinds[dtype.kind])
    spec = observed[site]
    if not isinstance(spec, Observable):
        raise TypeError(
            f"observed site {site!r} is described by {spec!r}, expected an Observable such as Observable({shape}, 'mV')"
        )
    if spec.shape != shape:
        raise ValueError(f"the model draws {site!r} with shape {shape}, the Observable says {spec.shape}")
    return spec


def _units(sites: ModelSites, units: Mapping[str, str] | None) -> list[str]:
    given = dict(units or {})
    for key in given:
        if key not in sites.names and key not in sites.latent:
            known = [*sites.names, *(site for site in sites.latent if site not in sites.names)]
            raise ValueError(f"units name {key!r}, which is no parameter{suggest(key, known)}; there are {known}")
    site_of = {name: site for site, names in sites.latent.items() for name in names}
    return [given.get(name, given.get(site_of[name], "")) for name in sites.names]
