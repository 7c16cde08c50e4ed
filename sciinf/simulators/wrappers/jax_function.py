"""Simulators from JAX functions of one simulation, which are mapped over the batch and compiled.

    def voltage(key, rate, amplitude):
        return {"v": amplitude * jnp.exp(-rate * t) + 0.1 * jax.random.normal(key, (50,))}

Row i of a batch has the key fold_in(k, i), where k is drawn from the torch generator. Batches are filled up to the next
power of two, so that few sizes are compiled. JAX computes in float32 unless the process has enabled x64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Simulator, X
from sciinf.simulators.wrappers.named_function import (
    Specification,
    check_result,
    columns_of,
    draw_seed,
    match_arguments,
    match_likelihood,
    name_of,
    outcome_of,
    rows_of_data,
    specify,
)
from sciinf.simulators.wrappers.row_arguments import check_plain


def jax(
    function: Callable[..., Any],
    prior: Prior,
    observables: Mapping[str, Specification],
    *,
    name: str | None = None,
    block: int = 4096,
    log_likelihood: Callable[..., Any] | None = None,
    observe: Callable[..., Any] | None = None,
) -> JaxSimulator:
    """Make a simulator of a JAX function of one simulation.

    Args:
        function: Function of the parameters by name, each a scalar, which JAX can trace. If it has an argument `key`,
            it also gets a JAX random key. It returns observable name -> array of the event shape, or a bare array if
            there is one observable.
        prior: Prior of the parameters, with their names, distributions and units.
        observables: Observable name -> `Observable`, or its shape, or (shape, unit).
        name: Name of the simulator; by default the function's name.
        block: Number of rows per block of a store.
        log_likelihood: Log likelihood log p(x | theta) of one simulation, if known: a function from the parameters by
            name and `x` (observable name -> array (*event)) to a number.
        observe: Function from paths of data files to the observation, observable name -> array. By default, columns
            named like the observables are read.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the function's argument names differ from the prior's names, the prior has parameters that are
            not numbers or do not always exist, or the prior needs float64 and JAX has x64 disabled.
    """
    return JaxSimulator(
        function,
        prior,
        specify(observables),
        name=name or name_of(function),
        block=block,
        log_likelihood=log_likelihood,
        observe=observe,
    )


@final
class JaxSimulator(Simulator):
    """The simulator that `jax` makes. It can be pickled if its functions are defined at the top level of a module."""

    def __init__(
        self,
        function: Callable[..., Any],
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        name: str,
        block: int,
        log_likelihood: Callable[..., Any] | None,
        observe: Callable[..., Any] | None,
    ) -> None:
        _check_digits(prior)
        check_plain(prior, "wrappers.jax")
        takes_key = "key" in match_arguments(function, prior, ("key",), what="the function")
        if log_likelihood is not None:
            match_likelihood(log_likelihood, prior)
            self.log_likelihood = JaxLikelihood(log_likelihood, prior)
        self.prior, self.observables, self.name, self.block, self.reader = prior, observables, name, block, observe
        self.mapped = MappedFunction(function, prior, takes_key)
        self.label = f"the function {name_of(function)!r}"

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        """Simulate a batch.

        Raises:
            TypeError: If the function does not return numbers for each observable.
            ValueError: If a name or a shape among its results is wrong.
        """
        columns, seed, n = columns_of(self.prior, theta), draw_seed(generator), len(theta)
        result = self.mapped(columns, seed)
        host = {k: np.asarray(v) for k, v in result.items()} if isinstance(result, Mapping) else result
        return outcome_of(check_result(self.observables, host, (_filled(n),), what=self.label), theta.device, n)


@final
class MappedFunction:
    """A JAX function of one simulation, mapped over a batch and compiled at its first call in each process."""

    def __init__(self, function: Callable[..., Any], prior: Prior, takes_key: bool) -> None:
        self.function, self.prior, self.takes_key = function, prior, takes_key
        self._compiled: Callable[..., Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}

    def __call__(self, columns: Mapping[str, np.ndarray], seed: int) -> Any:
        """Results for a batch. The batch is filled up to a power of two by repeating its last row."""
        import jax

        if self._compiled is None:
            self._compiled = jax.jit(jax.vmap(self._one, in_axes=(None, 0, 0)))
        n = len(columns[self.prior.names[0]])
        index = np.minimum(np.arange(_filled(n)), max(n - 1, 0))
        filled = {k: v[index] if n else np.zeros(1) for k, v in columns.items()}
        words = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)
        return self._compiled(words, np.arange(_filled(n), dtype=np.uint32), _floats(filled, self.prior))

    def _one(self, words: Any, row: Any, parameters: Mapping[str, Any]) -> Any:
        import jax

        if not self.takes_key:
            return self.function(**parameters)
        key = jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), row)
        return self.function(key=key, **parameters)


@final
class JaxLikelihood:
    """A JAX log-likelihood of one simulation as a simulator's `log_likelihood`: (theta (batch, D), x) -> (batch,)."""

    def __init__(self, function: Callable[..., Any], prior: Prior) -> None:
        self.function, self.prior = function, prior
        self._compiled: dict[int | None, Callable[..., Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def __call__(self, theta: Tensor, x: X) -> Tensor:
        """Log likelihood log p(x | theta), float64 on theta's device, computed in JAX's precision.

        Args:
            theta: Parameters, (batch, D).
            x: Observable name -> (batch, *event), or (1, *event) for one observation shared by all rows.

        Raises:
            ValueError: If x has another number of rows, or the function returns a wrong shape.
        """
        columns, n = columns_of(self.prior, theta), len(theta)
        data = rows_of_data(x, n)
        repeated = all(len(value) == 1 for value in data.values())
        rows = {k: v[0] if repeated else np.broadcast_to(v, (n, *v.shape[1:])) for k, v in data.items()}
        value = np.asarray(self._mapped(None if repeated else 0)(_floats(columns, self.prior), rows))
        if value.shape != (n,):
            raise ValueError(
                f"the log-likelihood {name_of(self.function)!r} returned shape {value.shape[1:]}, expected (): one "
                "number per simulation (sum over the data)"
            )
        return torch.from_numpy(value.astype(np.float64)).to(theta.device)

    def _mapped(self, axis: int | None) -> Callable[..., Any]:
        import jax

        if axis not in self._compiled:
            self._compiled[axis] = jax.jit(jax.vmap(self._one, in_axes=(0, axis)))
        return self._compiled[axis]

    def _one(self, parameters: Mapping[str, Any], x: Mapping[str, Any]) -> Any:
        return self.function(**parameters, x=x)


def _filled(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def _floats(columns: Mapping[str, np.ndarray], prior: Prior) -> dict[str, np.ndarray]:
    kind = np.float64 if prior.dtype == torch.float64 else np.float32
    return {k: v.astype(kind) for k, v in columns.items()}


def _check_digits(prior: Prior) -> None:
    import jax

    if prior.dtype == torch.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            f"float32 cannot tell values of {prior} apart, and JAX computes in float32: say "
            'jax.config.update("jax_enable_x64", True) before the simulator is made'
        )
