"""A fitted surrogate as a simulator: the equation's prior and start, the surrogate's solution, its error as noise.

    u ~ draws of the surrogate at theta and g,     g ~ start(theta),

which are f(theta, g) + e for one that predicts f, e the error of held-out solutions. What is inferred through it is as
wide as the surrogate's error demands: an estimator trained on such u (seen through sensors, `wrappers.observed`) does
not take the surrogate's mistakes for information. Its draws can then be weighted by the true solver's likelihood where
there is one (`build_posterior(fit, simulator, ess=..., budget=...)`), or it can be trained again on true solutions
where the posterior is (`posteriors.corrected`).
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
    """A surrogate in the equation's place.

    Args:
        fit: Of a surrogate, trained on the equation's simulations.
        equation: The simulator that it was trained on.
        error: Whether predictions carry the error that they have; False leaves a posterior too narrow.

    Raises:
        TypeError: If the fit is of an estimator, or the equation is none.
        ValueError: If the fit is of another simulator's parameters, fields or settings, its frames are no equal steps,
            or predictions are to carry an error that nobody knows.

    Warns:
        UserWarning: If the file that defines the equation is not as it was.
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
        if error:  # it says why where it knows none
            self.surrogate.spread(equation.prior.sample(1, generator=torch.Generator().manual_seed(0)))
        if isinstance(self.surrogate, ByTimes):
            self.surrogate.check_times(equation.times)
        if differing := unlike(fit.simulator, equation, ignore=("source", "code")):
            raise ValueError(f"{fit} is of another {equation.name!r}, build that one: {differing}")
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
