"""What a calibration says of observations and of answers, made ready once and asked of one or of many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from torch import Tensor

from sciinf.core import Calibration, Case, Corrected, Draws, Posterior, Trust, X
from sciinf.diagnostics.bounds import Bounds
from sciinf.diagnostics.failures import Failures, Reading, mended
from sciinf.diagnostics.ood import Compared
from sciinf.diagnostics.recalibrate import Recalibration, corrected, recalibration, seen_by


@dataclass(frozen=True)
class Looked:
    """What is said of one observation before it is answered.

    Args:
        trust: Whether it looks like the simulations.
        seen: It as the correction of intervals sees data, (1, F); None where that does not depend on data.
    """

    trust: Trust
    seen: Tensor | None


@final
class Judge:
    """A posterior with what its calibration says of observations and of draws.

    Args:
        posterior: What answers.
        calibration: Of it, or of what it corrects; None where it was never checked.
    """

    def __init__(self, posterior: Posterior, calibration: Calibration | None) -> None:
        self.posterior, self.calibration = posterior, calibration

    def look(self, x: X) -> list[Looked]:
        """What is said of each of a batch of observations, name -> (batch, *event), as of each by itself."""
        trusts = self.trusts(x)
        found = self._recalibration
        seen = seen_by(found, self.posterior, self._reference, x) if found else None
        return [Looked(one, None if seen is None else seen[k : k + 1]) for k, one in enumerate(trusts)]

    def trusts(self, x: X) -> list[Trust]:
        """Whether each of a batch of observations looks like the simulations, as of each by itself."""
        return self._compared.trust(x)

    def recalibrated(
        self, draws: Draws, level: float, looked: Looked
    ) -> tuple[dict[str, Corrected], tuple[float, float] | None]:
        """Corrected intervals of each parameter, and what region to take; nothing where it is not known."""
        found = self._recalibration
        if found is None or not found.enough(level):
            return {}, None
        each = corrected(found, draws, level, looked.seen)
        discrete = self.posterior.prior.discrete()  # their probabilities are checked, and no interval is moved
        return {name: one for name, one in each.items() if name not in discrete}, found.region(level)

    def case(self, draws: Draws, level: float, failures: Reading) -> Case:
        """An answer as diagnostics see it that need nothing but its draws.

        Args:
            draws: Of the parameters, and of quantities derived from them.
            level: Of the intervals.
            failures: How simulations that failed are read.
        """
        return Case(self.posterior, draws, level, self.calibration, failures=failures, bounds=self._bounds)

    @property
    def _reference(self) -> dict[str, Tensor]:
        return dict(self.calibration.reference) if self.calibration else {}

    @cached_property
    def _compared(self) -> Compared:
        return Compared(self._reference, self.posterior)

    @cached_property
    def _bounds(self) -> Bounds:
        return Bounds(self.posterior.prior)

    @cached_property
    def _recalibration(self) -> Recalibration | None:
        """The correction, where the calibration is of this posterior, and simulations do not fail here and there."""
        if self.calibration is None or self.calibration.fit != self.posterior.digest:
            return None
        failures = Failures.from_tensors(self.calibration.reference)
        if mended(self.posterior, failures, "outcome") is not self.posterior:
            return None
        return recalibration(self.calibration)
