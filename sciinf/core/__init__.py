"""The interfaces between the parts of sciinf.

A simulator has a `Prior` and `Observable`s. Everything that is trained is `Learned`. An `Estimator` gives a
`Density` or a `Potential` when it is conditioned on x. A `Posterior` gives `Draws`. An `Answer` has draws,
findings and a `Verdict`.

- A likelihood may be an unbiased estimate (`random_likelihood`). Such an estimate is exact as an importance
  weight, but no Markov chain runs on it.
- Controls, times and masks of a record are observables. `Simulator.like(x)` simulates under those of x, which
  must not depend on the parameters.
- Numbers in HDF5 files are read through `within`, which refuses numbers that lie in other files.
- `sciinf.core` imports no other folder of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.core.answer import Answer as Answer, Corrected as Corrected, Estimate as Estimate
    from sciinf.core.component import Component as Component
    from sciinf.core.diagnostic import Case as Case, Diagnostic as Diagnostic, Need as Need
    from sciinf.core.draws import Draws as Draws
    from sciinf.core.estimator import Density as Density, DensityUnavailable as DensityUnavailable
    from sciinf.core.estimator import Estimator as Estimator, Marginals as Marginals, PairedDensity as PairedDensity
    from sciinf.core.estimator import Potential as Potential
    from sciinf.core.existence import Each as Each, Only as Only
    from sciinf.core.findings import Cause as Cause, Evidence as Evidence, Finding as Finding, Level as Level
    from sciinf.core.fit import Fit as Fit, load_fit as load_fit, save_fit as save_fit
    from sciinf.core.joint_laws import Ordered as Ordered, Simplex as Simplex
    from sciinf.core.laws import Truncated as Truncated
    from sciinf.core.learned import Adjusting as Adjusting, Batch as Batch, Learned as Learned, Learns as Learns
    from sciinf.core.levels import Choice as Choice, Counts as Counts
    from sciinf.core.named_laws import Beta as Beta, Cauchy as Cauchy, Exponential as Exponential, Gamma as Gamma
    from sciinf.core.named_laws import HalfCauchy as HalfCauchy, HalfNormal as HalfNormal, Laplace as Laplace
    from sciinf.core.named_laws import LogNormal as LogNormal, LogUniform as LogUniform, Normal as Normal
    from sciinf.core.named_laws import StudentT as StudentT, Uniform as Uniform
    from sciinf.core.observation import Observation as Observation, as_observation as as_observation, observe as observe
    from sciinf.core.observation import read_observation as read_observation
    from sciinf.core.posterior import Posterior as Posterior
    from sciinf.core.prior import Prior as Prior
    from sciinf.core.probabilities import Probabilities as Probabilities
    from sciinf.core.proposal import Proposal as Proposal
    from sciinf.core.records import Calibration as Calibration, Strange as Strange, Trust as Trust
    from sciinf.core.observable import Observable as Observable, Outcome as Outcome
    from sciinf.core.simulator import Simulator as Simulator
    from sciinf.core.observable import Status as Status, X as X
    from sciinf.core.simulator import identity as identity, load_simulator as load_simulator
    from sciinf.core.simulator import source_hash as source_hash
    from sciinf.core.surrogate import Surrogate as Surrogate, predicted as predicted
    from sciinf.core.verdict import Verdict as Verdict

__getattr__, __dir__ = offered(__name__, __file__)
