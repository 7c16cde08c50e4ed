"""The likelihood of a numpyro model over batches, and its posterior by NUTS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Prior, X, as_observation
from sciinf.core.laws import inside
from sciinf.wrappers.named_function import arrays_of, columns_of, draw_seed, rows_of_data
from sciinf.wrappers.numpyro_sites import ModelSites, precision

CHAINS, WARM_UP, SHORTEST = 4, 400, 250
FORWARD = 4  # parameters up to which slopes are taken forwards: through loops that is faster, 3.5 times for influenza
"""Chains of NUTS, steps of warm-up of each, and the fewest steps kept of each."""
LARGEST_R_HAT = 1.05


@final
class NumpyroLikelihood:
    """log p(x | theta) as the contract has it: (theta (batch, D), x) -> (batch,)."""

    def __init__(self, sites: ModelSites, prior: Prior, *, double: bool, chunk: int) -> None:
        self.sites, self.prior, self.double, self.chunk = sites, prior, double, chunk
        self._compiled: dict[int | None, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def __call__(self, theta: Tensor, x: X) -> Tensor:
        """log p(x | theta), float64 on theta's device; -inf where x is impossible.

        Args:
            theta: Parameters, (batch, D).
            x: Observable name -> (batch, *event), or (1, *event) for one observation repeated.

        Raises:
            ValueError: If x lacks a site or has another batch.
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
            # filled up to a power of two with the last row, so that few sizes are compiled
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
    """The posterior given one observation, by NUTS: (x, n, generator) -> (n, D)."""

    def __init__(self, sites: ModelSites, prior: Prior, observables: Mapping[str, Observable], *, double: bool) -> None:
        self.sites, self.prior, self.observables, self.double = sites, prior, observables, double
        self._compiled: dict[int, Callable[..., Any]] = {}
        self._forward = len(prior) <= FORWARD

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def __call__(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        """n posterior draws, in the prior's dtype on the CPU, strictly inside the prior's support.

        Four chains from prior draws, 400 steps of warm-up each; of at least 250 more steps each, n are taken evenly.

        Args:
            x: One observation: observable name -> (*event), or (1, *event).
            n: Number of draws.
            generator: The only source of randomness.

        Raises:
            ValueError: If x is not one observation of this model.
            RuntimeError: If the chains disagree: then they are no reference.
        """
        from numpyro.diagnostics import split_gelman_rubin

        data = {k: v[0] for k, v in arrays_of(as_observation(self.observables, x)).items()}
        steps = SHORTEST
        while CHAINS * steps < n:  # doubled, so that few lengths are compiled
            steps *= 2
        seed = draw_seed(generator)
        words = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)
        with precision(self.double):
            try:
                drawn = self._drawn(steps, words, data)
            except TypeError:  # functions with a slope of their own, such as jax's `odeint`, have it backwards alone
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
        """Latent site -> (chains, steps, *shape); compiled as a whole, so that another observation compiles nothing."""
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
