"""A fitted surrogate as a simulator: the equation's prior and start, the surrogate's solution, its error as noise.

    u ~ draws of the surrogate at theta and g,     g ~ start(theta).

For a surrogate that predicts f, a draw is f(theta, g) + e, with e the error of held-out solutions. A posterior that is
inferred through this simulator is as wide as the surrogate's error demands. An estimator that is trained on such u
(through sensors, `wrappers.observed`) does not take the surrogate's mistakes for information. Where the true solver has
a likelihood, the draws of that posterior can be weighted by it (`build_posterior(fit, simulator, ess=...,
budget=...)`). Or the estimator can be trained again on true solutions from the region of the posterior
(`posteriors.corrected`).
"""

from __future__ import annotations

import warnings
from typing import final

import torch
from torch import Tensor

from sciinf.core import Batch, Fit, X, predicted
from sciinf.core.simulator import BARE, SURROGATE, unlike
from sciinf.emulators._fields import ByTimes
from sciinf.simulators.dynamics.field_equation import SOLUTION, FieldSource


@final
class Emulator(FieldSource):
    """A simulator that calls a fitted surrogate in place of the equation's solver.

    Args:
        fit: The fit of a surrogate that was trained on the equation's simulations.
        equation: The simulator that the surrogate was trained on.
        error: Whether predictions carry the surrogate's error as noise; False leaves the posterior too narrow.

    Raises:
        TypeError: If the fit is of an estimator, or `equation` is no differential equation.
        ValueError: If the fit is of another simulator's parameters, fields or settings, or its frames are not evenly
            spaced. Also if predictions are to carry an error, and no held-out solution has shown how large that error
            is.

    Warns:
        UserWarning: If the file that defines the equation has changed since the training.
    """

    def __init__(self, fit: Fit, equation: FieldSource, *, error: bool = True) -> None:
        if not isinstance(fit, Fit) or not isinstance(equation, FieldSource):
            found = f"{type(fit).__name__} and {type(equation).__name__}"
            raise TypeError(f"an Emulator takes a surrogate's fit and the differential equation it is of; got {found}")
        self.surrogate, self.equation, self.with_error = fit.surrogate, equation, error
        if self.surrogate.prior.to_json() != equation.prior.to_json() or fit.simulator.get("name") != equation.name:
            raise ValueError(f"{fit} is of another simulator than {equation.name!r}, whose prior is {equation.prior}")
        if self.surrogate.target != SOLUTION:
            raise ValueError(f"{fit} predicts {self.surrogate.target!r}, not the solution {SOLUTION!r}")
        for name in (*self.surrogate.given, SOLUTION):
            if equation.observables.get(name) != self.surrogate.observables[name]:
                raise ValueError(
                    f"{name!r} of {equation.name!r} is not what {fit} was trained on: {equation.observables.get(name)} "
                    f"in place of {self.surrogate.observables[name]}"
                )
        if error:  # `spread` raises an error that explains why, if the size of the error is unknown.
            self.surrogate.spread(equation.prior.sample(1, generator=torch.Generator().manual_seed(0)))
        if isinstance(self.surrogate, ByTimes):
            self.surrogate.check_times(equation.times)
        if differing := unlike(fit.simulator, equation, ignore=("source", "code")):
            raise ValueError(f"{fit} is of another {equation.name!r}; build the equation of the fit: {differing}")
        if unlike(fit.simulator, equation, ignore=("source",)):
            warnings.warn(f"the file of {equation.name!r} has changed since {fit} was trained on it", stacklevel=2)
        sure = "" if error else "_without_error"
        self.name = f"{equation.name}_by_{type(self.surrogate).__name__.lower()}_{fit.digest[:8]}{sure}"
        off = fit.held_out or "an error that nobody knows"
        self.emulated_by = {
            SURROGATE if error else BARE: f"{type(self.surrogate).__name__} of {equation.name!r} with {off}"
        }
        self.prior, self.observables = equation.prior, equation.observables
        self.block, self.random, self.settings = equation.block, equation.random or error, equation.settings
        self.grid, self.times, self.given = equation.grid, equation.times, equation.given

    def start(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return self.equation.start(theta, generator=generator)

    @torch.no_grad()
    def solution(self, theta: Tensor, given: X, *, generator: torch.Generator) -> Tensor:
        if self.with_error:
            return self.surrogate.draw(theta, given, generator=generator)
        return predicted(self.surrogate, Batch(theta, given))
