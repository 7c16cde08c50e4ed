"""Simulators from numpyro models: latent sites are the prior, and observed sites are the observables.

    def model(times, y=None):
        rate = numpyro.sample("rate", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("time", len(times)):
            numpyro.sample("y", dist.Normal(jnp.exp(-rate * times), 0.1), obs=y)

    simulator = wrappers.numpyro(model, args=(times,), observed={"y": Observable((50,), "mV", ("time",))})

The model is called without data, `model(*args, **kwargs)`, and then simulates. Therefore an argument that carries data
must default to None. For a likelihood, the observed sites are conditioned on the data by the names of the sites
(`numpyro.handlers.condition`), whatever the names of the arguments. So the same model gives simulations,
log p(x | theta), and the posterior by NUTS, and these three cannot contradict each other.

A vector site `b` of shape (2,) becomes the parameters `b_0` and `b_1`. Deterministic sites are left out. Latent sites
must be independent of each other. Write a hierarchical model with standard distributions and deterministic functions of
their draws (`numpyro.handlers.reparam` with `LocScaleReparam` does this for locations and scales).

`ModelSites` describes a model: its latent sites with their distributions, and its observed sites with their shapes.
`torch_laws` converts the distributions of numpyro to distributions of torch, for priors.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Outcome, Prior, Simulator, Truncated, X, as_observation
from sciinf.core.laws import inside
from sciinf.core.precision import precision_for
from sciinf.simulators.wrappers.jax_function import MappedFunction
from sciinf.simulators.wrappers.named_function import (
    arrays_of,
    check_result,
    columns_of,
    draw_seed,
    name_of,
    outcome_of,
    rows_of_data,
    suggest,
)

CHAINS, WARM_UP, SHORTEST = 4, 400, 250
# Largest number of parameters with forward-mode gradients. They are faster through loops: 3.5 times for influenza.
FORWARD = 4
"""Chains of NUTS, steps of warm-up of each, and the fewest steps kept of each."""
LARGEST_R_HAT = 1.05


@final
class NumpyroLikelihood:
    """Log likelihood of a numpyro model as a simulator's `log_likelihood`: (theta (batch, D), x) -> (batch,)."""

    def __init__(self, sites: ModelSites, prior: Prior, *, double: bool, chunk: int) -> None:
        self.sites, self.prior, self.double, self.chunk = sites, prior, double, chunk
        self._compiled: dict[int | None, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def __call__(self, theta: Tensor, x: X) -> Tensor:
        """Log likelihood log p(x | theta), float64 on theta's device; -inf if x is impossible.

        Args:
            theta: Parameters, (batch, D).
            x: Observable name -> (batch, *event), or (1, *event) for one observation shared by all rows.

        Raises:
            ValueError: If x lacks an observed site or has another number of rows.
        """
        columns, n = columns_of(self.prior, theta), len(theta)
        if missing := [name for name in self.sites.observed if name not in x]:
            raise ValueError(f"x has {sorted(x)}, the model observes {list(self.sites.observed)}: missing {missing}")
        data = rows_of_data({name: x[name] for name in self.sites.observed}, n)
        repeated = all(len(value) == 1 for value in data.values())
        full = data if repeated else {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in data.items()}
        out = np.zeros(n)
        for start in range(0, n, self.chunk):
            stop = min(start + self.chunk, n)
            # The batch is filled up to a power of two with its last row, so that few sizes are compiled.
            index = np.minimum(start + np.arange(1 << (stop - start - 1).bit_length()), stop - 1)
            rows = {k: v[0] if repeated else v[index] for k, v in full.items()}
            with precision(self.double):
                value = self._mapped(None if repeated else 0)({k: v[index] for k, v in columns.items()}, rows)
            out[start:stop] = np.asarray(value)[: stop - start]
        return torch.from_numpy(out).to(theta.device)

    def _mapped(self, axis: int | None) -> Callable[..., Any]:
        import jax

        if axis not in self._compiled:
            self._compiled[axis] = jax.jit(jax.vmap(self.sites.log_likelihood, in_axes=(0, axis)))
        return self._compiled[axis]


@final
class NumpyroReference:
    """Reference posterior given one observation, by NUTS: (x, n, generator) -> (n, D)."""

    def __init__(self, sites: ModelSites, prior: Prior, observables: Mapping[str, Observable], *, double: bool) -> None:
        self.sites, self.prior, self.observables, self.double = sites, prior, observables, double
        self._compiled: dict[int, Callable[..., Any]] = {}
        self._forward = len(prior) <= FORWARD

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def __call__(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        """Draw n posterior samples, in the prior's dtype on the CPU, strictly inside the prior's support.

        Four chains start from prior draws, and each has 400 warm-up steps and at least 250 further steps. The n draws
        are evenly spaced among the further steps.

        Args:
            x: One observation: observable name -> (*event), or (1, *event).
            n: Number of draws.
            generator: The only source of randomness.

        Raises:
            ValueError: If x is not one observation of this model.
            RuntimeError: If the chains disagree, so that their draws are not a valid reference.
        """
        from numpyro.diagnostics import split_gelman_rubin

        data = {k: v[0] for k, v in arrays_of(as_observation(self.observables, x)).items()}
        steps = SHORTEST
        while CHAINS * steps < n:  # The length is doubled, so that few lengths are compiled.
            steps *= 2
        seed = draw_seed(generator)
        words = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)
        with precision(self.double):
            try:
                drawn = self._drawn(steps, words, data)
            except TypeError:  # Functions with a custom gradient, such as jax's `odeint`, support reverse mode only.
                if not self._forward:
                    raise
                self._forward = False
                self._compiled.clear()
                drawn = self._drawn(steps, words, data)
        columns = np.concatenate([drawn[s].reshape(CHAINS, steps, -1) for s in self.sites.latent], axis=-1)
        for i, name in enumerate(self.prior.names):
            r_hat = float(split_gelman_rubin(columns[..., i]))
            if not r_hat < LARGEST_R_HAT:
                raise RuntimeError(
                    f"the chains of NUTS disagree about {name!r} (R-hat {r_hat:.2f}, expected below {LARGEST_R_HAT}), "
                    "so their draws are no reference; the posterior may have several modes, or x be far from the prior"
                )
        rows = columns.swapaxes(0, 1).reshape(CHAINS * steps, -1)
        rows = rows[np.linspace(0, len(rows) - 1, n).round().astype(int)]
        theta = torch.from_numpy(rows).to(self.prior.dtype)
        return torch.stack([inside(law, theta[:, i]) for i, law in enumerate(self.prior.laws)], dim=1)

    def _drawn(self, steps: int, words: Any, data: Mapping[str, Any]) -> dict[str, np.ndarray]:
        import jax

        if steps not in self._compiled:
            self._compiled[steps] = jax.jit(partial(self._chains, steps, self._forward))
        return {k: np.asarray(v) for k, v in self._compiled[steps](words, data).items()}

    def _chains(self, steps: int, forward: bool, words: Any, data: Mapping[str, Any]) -> dict[str, Any]:
        """Run NUTS, and return latent site -> (chains, steps, *shape).

        The whole run is compiled at once, so that another observation needs no new compilation.
        """
        import jax
        from numpyro.infer import MCMC, NUTS, init_to_sample

        kernel = NUTS(self.sites.conditioned, init_strategy=init_to_sample, forward_mode_differentiation=forward)
        chains = MCMC(
            kernel,
            num_warmup=WARM_UP,
            num_samples=steps,
            num_chains=CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        chains.run(jax.random.wrap_key_data(words, impl="threefry2x32"), data)
        drawn = chains.get_samples(group_by_chain=True)
        return {site: drawn[site] for site in self.sites.latent}


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
    """Make a simulator of a numpyro model.

    Args:
        model: Numpyro model. Called as `model(*args, **kwargs)`, it must draw its observed sites itself.
        args: Positional arguments of the model: covariates, times, sizes.
        kwargs: Keyword arguments of the model.
        observed: Names of the observed sites, or name -> `Observable`, which adds units and axes. With names only,
            shapes and dtypes are those of the model.
        units: Name of a parameter (or vector site) -> its unit. Other parameters are dimensionless.
        name: Name of the simulator; by default the model's name.
        block: Number of rows per block of a store, and largest batch of the likelihood.
        double: Whether JAX computes simulations, likelihood and NUTS in float64. If False, it computes in float32,
            unless the process has enabled x64 in JAX. Results are cast to the observables' dtypes in both cases.
        observe: Function from paths of data files to the observation, observable name -> array. By default, columns
            named like the observables are read.

    Raises:
        TypeError: If the model cannot be called, or `observed` has a wrong type.
        ValueError: If the model needs its data, lacks a site, has latent sites that are not independent, or needs
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
    """The simulator that `numpyro` makes. It can be pickled if its model is defined at the top level of a module."""

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
        """Simulate a batch. Row i has its own random key, fold_in(key, i)."""
        columns, seed, n = columns_of(self.prior, theta), draw_seed(generator), len(theta)
        # All of a model runs in one precision: JAX mixes up numpy constants of a function that is traced in two.
        with precision(self.double):
            drawn = {k: np.asarray(v) for k, v in self.mapped(columns, seed).items()}
        rows = len(next(iter(drawn.values())))
        checked = check_result(self.observables, drawn, (rows,), what=f"the model {self.name!r}")
        return outcome_of(checked, theta.device, n)


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
    """Convert the distribution of a latent site to univariate distributions of torch, one for each number of the site.

    Args:
        site: Name of the site, for messages.
        law: A distribution of numpyro whose arguments are arrays.
        shape: Shape of the site's value.

    Returns:
        The distributions, in the order of the flattened value.

    Raises:
        ValueError: If torch has no such distribution, or the numbers are correlated.
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
            raise ValueError(f"the latent site {site!r} has no counterpart in torch: {error}") from error
    if kind not in _ARGUMENTS or not type(law).__module__.startswith("numpyro."):
        raise ValueError(
            f"the latent site {site!r} has the distribution {kind}, which has no counterpart among the independent "
            f"distributions of torch; known are {', '.join(sorted(_ARGUMENTS))} and truncated ones. Write the site as "
            "a function of sites with known distributions, with numpyro.deterministic for its own name"
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
    """One element of a distribution's argument, as a float.

    A float32 is read as its shortest decimal: 0.1 is 0.1, not 0.10000000149.
    """
    element = np.broadcast_to(np.asarray(value), shape)[index]
    return float(str(element)) if element.dtype == np.float32 else float(element)


_PROBES = 64  # Number of prior draws that are compared to check that no latent site depends on another.


@dataclass(frozen=True)
class ModelSites:
    """A numpyro model that runs without data, and a description of its latent and observed sites.

    Args:
        model: Numpyro model that is called without arguments.
        latent: Name of a latent site -> names of its parameters, in the order of its flattened value.
        laws: Prior distributions, one for each parameter.
        observed: Names of the observed sites.
        shapes: Name of a latent or observed site -> shape of its value.
        dtypes: Name of an observed site -> dtype of its value.
    """

    model: Callable[[], Any]
    latent: Mapping[str, tuple[str, ...]]
    laws: tuple[td.Distribution, ...]
    observed: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, np.dtype]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the D parameters."""
        return tuple(name for names in self.latent.values() for name in names)

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the latent sites, site -> JAX array, from the parameters, name -> number."""
        import jax.numpy as jnp

        stacked = {site: jnp.stack([parameters[n] for n in names]) for site, names in self.latent.items()}
        return {site: value.astype(float).reshape(self.shapes[site]) for site, value in stacked.items()}

    def simulate(self, key: Any, **parameters: Any) -> dict[str, Any]:
        """Run one simulation, with the parameters passed by their names in the prior."""
        from numpyro import handlers

        fixed = handlers.substitute(self.model, data=self.values(parameters))
        trace = handlers.trace(handlers.seed(fixed, key)).get_trace()
        return {site: trace[site]["value"] for site in self.observed}

    def log_likelihood(self, parameters: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        """Log likelihood of one simulation x; -inf if x lies outside the support of an observed site."""
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
        """Run the model with its observed sites fixed at x."""
        from numpyro import handlers

        return handlers.condition(self.model, data=dict(x))()


@contextmanager
def precision(double: bool) -> Iterator[None]:
    """Context in which JAX computes in float64, in this thread only.

    If `double` is false, JAX keeps the precision of the process.
    """
    if not double:
        yield
        return
    try:
        from jax import enable_x64
    except ImportError:  # JAX before 0.8 has the function in another module.
        from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    with enable_x64(True):
        yield


def read_sites(model: partial[Any], observed: tuple[str, ...], *, double: bool) -> ModelSites:
    """Find the sites of a model by running the model without data.

    Args:
        model: Numpyro model with its arguments.
        observed: Names of the sites that are data.
        double: Whether the distributions of the sites are read in float64.

    Raises:
        ValueError: If the model needs its data, cannot be traced by JAX, or has sites that a simulator cannot have.
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
    """Trace of the model (with abstract values), and the arguments of each latent site's distribution.

    The arguments are evaluated for many prior draws, to see whether they depend on other sites.
    """
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
    order = [name for name in found if name in leaves]  # The order is restored because jit sorts mappings.
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
    """Distribution of a latent site with arrays as its arguments, after a check that it depends on no other site."""
    import jax

    if any(not np.array_equal(leaf[:1].repeat(len(leaf), 0), leaf, equal_nan=True) for leaf in leaves):
        raise ValueError(
            f"{label} has a latent site {site!r} whose law depends on other latent sites; parameters must be "
            "independent here, so draw the site from a fixed distribution and transform the draw "
            "(numpyro.infer.reparam.LocScaleReparam(0) does so for locations and scales), or make it part of the data"
        )
    return jax.tree.unflatten(jax.tree.structure(trace[site]["fn"]), [leaf[0] for leaf in leaves])


def _shape(site: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(n) for n in site["value"].shape)
