"""Judgements that a calibration allows on observations and answers, prepared once for one or many of them."""

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
    """Judgement on one observation before it is answered.

    Args:
        trust: Whether the observation looks like the simulations.
        seen: Features of the observation for the correction of intervals, (1, F); None where the correction does not
            depend on data.
    """

    trust: Trust
    seen: Tensor | None


@final
class Judge:
    """A posterior with the judgements that its calibration allows on observations and draws.

    Args:
        posterior: Posterior that answers.
        calibration: Calibration of the posterior, or of the posterior that it corrects; None where there is none.
    """

    def __init__(self, posterior: Posterior, calibration: Calibration | None) -> None:
        self.posterior, self.calibration = posterior, calibration

    def look(self, x: X) -> list[Looked]:
        """Judge each observation of a batch, name -> (batch, *event), as if it were alone."""
        trusts = self.trusts(x)
        found = self._recalibration
        seen = seen_by(found, self.posterior, self._reference, x) if found else None
        return [Looked(one, None if seen is None else seen[k : k + 1]) for k, one in enumerate(trusts)]

    def trusts(self, x: X) -> list[Trust]:
        """Whether each observation of a batch looks like the simulations, each judged as if it were alone."""
        return self._compared.trust(x)

    def recalibrated(
        self, draws: Draws, level: float, looked: Looked
    ) -> tuple[dict[str, Corrected], tuple[float, float] | None]:
        """Corrected interval of each parameter, and corrected level of the region; none if no correction is known."""
        found = self._recalibration
        if found is None or not found.enough(level):
            return {}, None
        each = corrected(found, draws, level, looked.seen)
        # Probabilities of discrete parameters are checked, and no interval of theirs is moved.
        discrete = self.posterior.prior.discrete()
        return {name: one for name, one in each.items() if name not in discrete}, found.region(level)

    def case(self, draws: Draws, level: float, failures: Reading) -> Case:
        """Case of an answer, for diagnostics that need only its draws.

        Args:
            draws: Draws of the parameters, and of quantities derived from them.
            level: Credible level of the intervals.
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
        """The correction of intervals, or None.

        It exists where the calibration is of this posterior, and failures do not depend on the parameters.
        """
        if self.calibration is None or self.calibration.fit != self.posterior.digest:
            return None
        failures = Failures.from_tensors(self.calibration.reference)
        if mended(self.posterior, failures, "outcome") is not self.posterior:
            return None
        return recalibration(self.calibration)
