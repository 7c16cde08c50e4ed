"""Simulators from plain Python functions that use numpy.

    def voltage(rate, amplitude, rng):
        return {"v": amplitude * np.exp(-rate * t) + 0.1 * rng.normal(size=50)}

The function is called with every parameter by its name. If it has an argument `rng`, it also gets a
`numpy.random.Generator`. If the function is called for each row, row i of a batch has its own generator: Philox, seeded
by an integer from the torch generator and by i. Therefore no row depends on other rows or on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Simulator, Status, X
from sciinf.simulators.wrappers.named_function import (
    LOST,
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
    tensors_of,
)
from sciinf.simulators.wrappers.row_arguments import absent_words, batch_of, rows_of

ROWS, BATCH = 1024, 4096
"""Default rows per block, called row by row and vectorised."""


def numpy(
    function: Callable[..., Any],
    prior: Prior,
    observables: Mapping[str, Specification],
    *,
    name: str | None = None,
    vectorised: bool = False,
    block: int | None = None,
    log_likelihood: Callable[..., Any] | None = None,
    observe: Callable[..., Any] | None = None,
) -> FunctionSimulator:
    """Make a simulator of a Python function.

    Args:
        function: Function of the parameters by name: floats, or arrays (batch,) if vectorised. If it has an argument
            `rng`, it also gets a `numpy.random.Generator`. A `Choice` is passed as its label, `Counts` as an int, and
            an `Each` as an array of its existing parameters. A parameter that does not exist is None (if vectorised,
            see `row_arguments.batch_of`). The function returns observable name -> array of the event shape, or
            (batch, *event) if vectorised. It may return a bare array if there is one observable. Astropy quantities
            are converted to the observable's unit.
        prior: Prior of the parameters, with their names, distributions and units.
        observables: Observable name -> `Observable`, or its shape, or (shape, unit).
        name: Name of the simulator; by default the function's name.
        vectorised: Whether one call simulates a whole batch.
        block: Number of rows per block of a store; by default 1024, or 4096 if vectorised.
        log_likelihood: Log likelihood log p(x | theta), if known. It is called like `function`, with an additional
            argument `x` (observable name -> array (*event), or (batch, *event) if vectorised). It returns a number, or
            (batch,) if vectorised.
        observe: Function from paths of data files to the observation, observable name -> array. By default, columns
            named like the observables are read.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the function's argument names differ from the prior's names.

    Examples:
        >>> prior = Prior(rate=(torch.distributions.LogNormal(0.0, 0.5), "1/h"))
        >>> simulator = numpy(lambda rate, rng: rng.poisson(rate), prior, {"decays": ()})
        >>> simulator(torch.ones(3, 1), generator=torch.Generator().manual_seed(0)).x["decays"].shape
        torch.Size([3])
    """
    simulator = FunctionSimulator(
        function,
        prior,
        specify(observables),
        name=name or name_of(function),
        vectorised=vectorised,
        log_likelihood=log_likelihood,
        observe=observe,
    )
    simulator.block = block or (BATCH if vectorised else ROWS)
    return simulator


@final
class FunctionSimulator(Simulator):
    """The simulator that `numpy` makes. It can be pickled if its functions are defined at the top level of a module."""

    def __init__(
        self,
        function: Callable[..., Any],
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        name: str,
        vectorised: bool,
        log_likelihood: Callable[..., Any] | None,
        observe: Callable[..., Any] | None,
    ) -> None:
        self.by_row = not vectorised
        self.takes_rng = "rng" in match_arguments(function, prior, ("rng",), what="the function")
        if log_likelihood is not None:
            match_likelihood(log_likelihood, prior)
            self.log_likelihood = FunctionLikelihood(log_likelihood, prior, vectorised)
        self.function, self.prior, self.observables = function, prior, observables
        self.name, self.vectorised, self.reader = name, vectorised, observe
        self.label = f"the function {name_of(function)!r}"

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        """Simulate a batch. If the function is called for each row, an exception makes only its own row fail.

        Raises:
            TypeError: If the function does not return numbers for each observable.
            ValueError: If a name or a shape among its results is wrong. Exceptions of a vectorised function are also
                passed on.
        """
        columns, seed = columns_of(self.prior, theta), draw_seed(generator)
        return self._batch(columns, seed, theta) if self.vectorised else self._rows(columns, seed, theta)

    def _batch(self, columns: Mapping[str, np.ndarray], seed: int, theta: Tensor) -> Outcome:
        result = self.function(**batch_of(self.prior, columns), **self._random(seed, ()))
        return outcome_of(check_result(self.observables, result, (len(theta),), what=self.label), theta.device)

    def _rows(self, columns: Mapping[str, np.ndarray], seed: int, theta: Tensor) -> Outcome:
        n = len(theta)
        arrays = {k: np.zeros((n, *spec.shape), dtype=spec.dtype) for k, spec in self.observables.items()}
        status, messages, row_of = np.zeros(n, dtype=np.uint8), dict[int, str](), rows_of(self.prior, columns)
        for i in range(n):
            arguments = row_of(i)
            try:
                result = self.function(**arguments, **self._random(seed, (i,)))
            except Exception as error:
                status[i] = Status.RAISED
                messages[i] = f"{type(error).__name__}: {error}{absent_words(arguments)}"
                continue
            row, lost = check_result(self.observables, result, (), what=self.label)
            if lost:
                status[i], messages[i] = Status.NON_FINITE, LOST
            for k, value in row.items():
                arrays[k][i] = value
        return Outcome(tensors_of(arrays, theta.device), torch.from_numpy(status).to(theta.device), messages)

    def _random(self, seed: int, row: tuple[int, ...]) -> dict[str, np.random.Generator]:
        if not self.takes_rng:
            return {}
        return {"rng": np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=row)))}


@final
class FunctionLikelihood:
    """A user's log-likelihood function as a simulator's `log_likelihood`: (theta (batch, D), x) -> (batch,)."""

    def __init__(self, function: Callable[..., Any], prior: Prior, vectorised: bool) -> None:
        self.function, self.prior, self.vectorised = function, prior, vectorised

    def __call__(self, theta: Tensor, x: X) -> Tensor:
        """Log likelihood log p(x | theta), float64.

        Args:
            theta: Parameters, (batch, D).
            x: Observable name -> (batch, *event), or (1, *event) for one observation shared by all rows.

        Raises:
            ValueError: If x has another number of rows, or the function returns a wrong shape.
        """
        columns, n = columns_of(self.prior, theta), len(theta)
        data = rows_of_data(x, n)
        if self.vectorised:
            full = {k: np.broadcast_to(v, (n, *v.shape[1:])) for k, v in data.items()}
            value = np.asarray(self.function(**batch_of(self.prior, columns), x=full), dtype=np.float64)
            return self._checked(value, (n,)).to(theta.device)
        row_of = rows_of(self.prior, columns)
        values = [
            self._checked(
                np.asarray(
                    self.function(
                        **row_of(i),
                        x={k: v[i if len(v) > 1 else 0] for k, v in data.items()},
                    ),
                    dtype=np.float64,
                ),
                (),
            )
            for i in range(n)
        ]
        return torch.stack(values).to(theta.device) if values else torch.zeros(0, dtype=torch.float64)

    def _checked(self, value: np.ndarray, shape: tuple[int, ...]) -> Tensor:
        if value.shape != shape:
            raise ValueError(
                f"the log-likelihood {name_of(self.function)!r} returned shape {value.shape}, expected {shape}: one "
                "number per simulation (sum over the data)"
            )
        return torch.from_numpy(np.array(value))
