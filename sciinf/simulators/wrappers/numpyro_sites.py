"""What a numpyro model consists of: latent sites with their laws, observed sites with their shapes.

Its laws become laws of torch.distributions, for priors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import distributions as td

from sciinf.core import Truncated
from sciinf.core.precision import precision_for
from sciinf.simulators.wrappers.named_function import name_of, suggest

_ARGUMENTS: dict[str, tuple[Callable[..., td.Distribution], tuple[str, ...]]] = {
    "Beta": (td.Beta, ("concentration1", "concentration0")),
    "Cauchy": (td.Cauchy, ("loc", "scale")),
    "Chi2": (td.Chi2, ("df",)),
    "Exponential": (td.Exponential, ("rate",)),
    "Gamma": (td.Gamma, ("concentration", "rate")),
    "Gumbel": (td.Gumbel, ("loc", "scale")),
    "HalfCauchy": (td.HalfCauchy, ("scale",)),
    "HalfNormal": (td.HalfNormal, ("scale",)),
    "InverseGamma": (td.InverseGamma, ("concentration", "rate")),
    "Laplace": (td.Laplace, ("loc", "scale")),
    "LogNormal": (td.LogNormal, ("loc", "scale")),
    "Normal": (td.Normal, ("loc", "scale")),
    "StudentT": (td.StudentT, ("df", "loc", "scale")),
    "Uniform": (td.Uniform, ("low", "high")),
    "Weibull": (td.Weibull, ("scale", "concentration")),
}
"""Name in numpyro -> class of torch, arguments (which both call alike, in torch's order)."""

_BOUNDS = {
    "LeftTruncatedDistribution": ("low", None),
    "RightTruncatedDistribution": (None, "high"),
    "TwoSidedTruncatedDistribution": ("low", "high"),
}


def torch_laws(site: str, law: Any, shape: tuple[int, ...]) -> list[td.Distribution]:
    """One univariate law of torch for each number of a latent site.

    Args:
        site: What the site is called, for messages.
        law: A distribution of numpyro whose arguments are arrays.
        shape: Shape of the site's value.

    Returns:
        The laws, in the order of the flattened value.

    Raises:
        ValueError: If torch has no such law, or the law is of correlated numbers.
    """
    while type(law).__name__ in ("Independent", "ExpandedDistribution"):
        law = law.base_dist
    return [_one(site, law, shape, index) for index in np.ndindex(*shape)]


def _one(site: str, law: Any, shape: tuple[int, ...], index: tuple[int, ...]) -> td.Distribution:
    kind = type(law).__name__
    if kind in _BOUNDS:
        low, high = (None if name is None else _number(getattr(law, name), shape, index) for name in _BOUNDS[kind])
        base = _one(site, law.base_dist, shape, index)
        try:
            return Truncated(base, low, high)
        except TypeError as error:
            raise ValueError(f"the latent site {site!r} has a law with no counterpart in torch: {error}") from error
    if kind not in _ARGUMENTS or not type(law).__module__.startswith("numpyro."):
        raise ValueError(
            f"the latent site {site!r} has the law {kind}, which has no counterpart among the independent laws of "
            f"torch; known are {', '.join(sorted(_ARGUMENTS))} and truncated ones. Write the site as a function of "
            "sites with such laws, with numpyro.deterministic for its own name"
        )
    torch_law, names = _ARGUMENTS[kind]
    numbers = [_number(getattr(law, name), shape, index) for name in names]
    exact = torch_law(*(torch.tensor(number, dtype=torch.float64) for number in numbers))
    if precision_for((site,), ("",), exact) == torch.float32:
        return torch_law(*numbers)
    if any(np.asarray(getattr(law, name)).dtype == np.float32 for name in names):
        raise ValueError(
            f"the latent site {site!r} takes values that float32, in which the model runs, cannot tell apart: give "
            "double=True"
        )
    return exact


def _number(value: Any, shape: tuple[int, ...], index: tuple[int, ...]) -> float:
    """One element of an argument. A float32 is read as its shortest decimal: 0.1 is 0.1, not 0.10000000149."""
    element = np.broadcast_to(np.asarray(value), shape)[index]
    return float(str(element)) if element.dtype == np.float32 else float(element)


_PROBES = 64  # prior draws under which the laws of the latent sites must be the same


@dataclass(frozen=True)
class ModelSites:
    """A model that runs without data, and the names of what it draws.

    Args:
        model: Called without arguments.
        latent: Latent site -> names of its parameters, in the order of its flattened value.
        laws: One law per parameter.
        observed: The observed sites.
        shapes: Site -> shape of its value, latent and observed.
        dtypes: Observed site -> dtype of its value.
    """

    model: Callable[[], Any]
    latent: Mapping[str, tuple[str, ...]]
    laws: tuple[td.Distribution, ...]
    observed: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, D of them."""
        return tuple(name for names in self.latent.values() for name in names)

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Parameter name -> number, as latent site -> JAX array."""
        import jax.numpy as jnp

        stacked = {site: jnp.stack([parameters[n] for n in names]) for site, names in self.latent.items()}
        return {site: value.astype(float).reshape(self.shapes[site]) for site, value in stacked.items()}

    def simulate(self, key: Any, **parameters: Any) -> dict[str, Any]:
        """One simulation; parameters by name, as the names of the prior."""
        from numpyro import handlers

        fixed = handlers.substitute(self.model, data=self.values(parameters))
        trace = handlers.trace(handlers.seed(fixed, key)).get_trace()
        return {site: trace[site]["value"] for site in self.observed}

    def log_likelihood(self, parameters: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        """log p(x | parameters) of one simulation; -inf where x lies outside an observed site's support."""
        import jax
        import jax.numpy as jnp
        from numpyro import handlers

        fixed = handlers.substitute(partial(self.conditioned, x), data=self.values(parameters))
        trace = handlers.trace(handlers.seed(fixed, jax.random.key(0))).get_trace()
        total = jnp.zeros(())
        for name in self.observed:
            law, value = trace[name]["fn"], trace[name]["value"]
            density = jnp.sum(law.log_prob(value))
            possible = True if type(law).__name__ == "MaskedDistribution" else jnp.all(law.support(value))
            total = total + jnp.where(possible, density, -jnp.inf)
        return total

    def conditioned(self, x: Mapping[str, Any]) -> Any:
        """The model run with its observed sites at x."""
        from numpyro import handlers

        return handlers.condition(self.model, data=dict(x))()


@contextmanager
def precision(double: bool) -> Iterator[None]:
    """JAX in float64 within, this thread only; as the process has it where `double` is false."""
    if not double:
        yield
        return
    try:
        from jax import enable_x64
    except ImportError:  # before JAX 0.8
        from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    with enable_x64(True):
        yield


def read_sites(model: partial[Any], observed: tuple[str, ...], *, double: bool) -> ModelSites:
    """The sites of a model, from running it without data.

    Args:
        model: The model with its arguments.
        observed: Names of the sites that are data.
        double: Whether laws are read in float64.

    Raises:
        ValueError: If it needs its data, is not traceable, or has sites that a simulator cannot stand for.
    """
    label = f"the model {name_of(model.func)!r}"
    try:
        inspect.signature(model.func).bind(*model.args, **model.keywords)
    except TypeError as error:
        raise ValueError(
            f"{label} cannot be called as model(*args, **kwargs): {error}; arguments that carry data must default to "
            "None, all others are given by args and kwargs"
        ) from error
    trace, leaves = _probe(model, observed, label, double)
    _refuse(trace, observed, label)
    latent: dict[str, tuple[str, ...]] = {}
    laws: list[td.Distribution] = []
    for site, values in leaves.items():
        shape = _shape(trace[site])
        laws += torch_laws(site, _constant_law(site, trace, values, label), shape)
        latent[site] = tuple("_".join([site, *map(str, index)]) for index in np.ndindex(*shape))
    names = [name for group in latent.values() for name in group]
    if not names:
        raise ValueError(f"{label} has no latent site beside the observed {list(observed)}: nothing to infer")
    if clash := [name for name in names if names.count(name) > 1 or name == "key"]:
        raise ValueError(f"{label} has latent sites that give the parameter name {clash[0]!r} twice, or use 'key'")
    shapes = {site: _shape(trace[site]) for site in (*latent, *observed)}
    dtypes = {site: np.dtype(trace[site]["value"].dtype) for site in observed}
    return ModelSites(model, latent, tuple(laws), observed, shapes, dtypes)


def _probe(
    model: Callable[[], Any], observed: tuple[str, ...], label: str, double: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, list[np.ndarray]]]:
    """The trace (with abstract values), and latent site -> arguments of its law under many prior draws."""
    import jax
    from numpyro import handlers

    found: dict[str, dict[str, Any]] = {}

    def run(key: Any) -> dict[str, list[Any]]:
        found.clear()
        found.update(handlers.trace(handlers.seed(model, key)).get_trace())
        latent = {n: s for n, s in found.items() if s["type"] == "sample" and not s["is_observed"]}
        return {name: jax.tree.leaves(site["fn"]) for name, site in latent.items() if name not in observed}

    try:
        with precision(double):
            leaves = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), _PROBES))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            f"{label} cannot be compiled, as NUTS and batches need: write it with jax.numpy, and without `if` or "
            f"`float()` on what it draws ({error})"
        ) from error
    order = [name for name in found if name in leaves]  # jit returns mappings sorted
    return found, {name: [np.asarray(leaf) for leaf in leaves[name]] for name in order}


def _refuse(trace: Mapping[str, Mapping[str, Any]], observed: tuple[str, ...], label: str) -> None:
    drawn = [n for n, s in trace.items() if s["type"] == "sample"]
    for name in observed:
        if name not in drawn:
            raise ValueError(f"{label} has no site {name!r}{suggest(name, drawn)}; it has {drawn}")
    for name, site in trace.items():
        where = f"{label} has a site {name!r}"
        if site["type"] == "sample" and site["is_observed"]:
            if type(site["fn"]).__name__ == "Unit":
                raise ValueError(f"{where} that is a numpyro.factor; such a density cannot be simulated from")
            raise ValueError(
                f"{where} that already holds its data; leave the data out of args and kwargs, and name it in `observed`"
            )
        if site["type"] == "param":
            raise ValueError(f"{where} that is a numpyro.param; give it a prior with numpyro.sample, or a fixed value")
        if site["type"] == "plate" and site["args"][1] not in (None, site["args"][0]):
            raise ValueError(f"{where} that is a plate which subsamples; a simulation has all its data")
        scale = site.get("scale")
        if site["type"] == "sample" and not (scale is None or (isinstance(scale, float | int) and scale == 1)):
            raise ValueError(f"{where} under numpyro.handlers.scale; a scaled density cannot be simulated from")


def _constant_law(site: str, trace: Mapping[str, Mapping[str, Any]], leaves: list[np.ndarray], label: str) -> Any:
    """The site's law with its arguments as arrays."""
    import jax

    if any(not np.array_equal(leaf[:1].repeat(len(leaf), 0), leaf, equal_nan=True) for leaf in leaves):
        raise ValueError(
            f"{label} has a latent site {site!r} whose law depends on other latent sites; a prior here is independent "
            "laws, so draw it with a fixed law and transform it (numpyro.infer.reparam.LocScaleReparam(0) does so for "
            "locations and scales), or make it part of the data"
        )
    return jax.tree.unflatten(jax.tree.structure(trace[site]["fn"]), [leaf[0] for leaf in leaves])


def _shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in site["value"].shape)
