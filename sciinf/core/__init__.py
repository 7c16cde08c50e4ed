"""The contracts every part of sciinf meets at. Imports nothing else of sciinf."""

from sciinf.core.answer import Answer, Corrected, Estimate
from sciinf.core.component import Component
from sciinf.core.diagnostic import Case, Diagnostic, Need
from sciinf.core.draws import Draws
from sciinf.core.estimator import Density, DensityUnavailable, Estimator, Marginals, PairedDensity, Potential
from sciinf.core.existence import Each, Only
from sciinf.core.findings import Finding, Level
from sciinf.core.fit import Fit, load_fit, save_fit
from sciinf.core.joint_laws import Ordered, Simplex
from sciinf.core.laws import Truncated
from sciinf.core.learned import Adjusting, Batch, Learned, Learns
from sciinf.core.levels import Choice, Counts
from sciinf.core.named_laws import (
    Beta,
    Cauchy,
    Exponential,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Laplace,
    LogNormal,
    LogUniform,
    Normal,
    StudentT,
    Uniform,
)
from sciinf.core.observation import Observation, as_observation, observe, read_observation
from sciinf.core.posterior import Posterior
from sciinf.core.prior import Prior
from sciinf.core.probabilities import Probabilities
from sciinf.core.proposal import Proposal
from sciinf.core.records import Calibration, Strange, Trust
from sciinf.core.simulator import Observable, Outcome, Simulator, Status, X, identity, load_simulator, source_hash
from sciinf.core.surrogate import Surrogate, predicted
from sciinf.core.verdict import Verdict

__all__ = [
    "Adjusting",
    "Answer",
    "Batch",
    "Beta",
    "Calibration",
    "Case",
    "Cauchy",
    "Choice",
    "Component",
    "Corrected",
    "Counts",
    "Density",
    "DensityUnavailable",
    "Diagnostic",
    "Draws",
    "Each",
    "Estimate",
    "Estimator",
    "Exponential",
    "Finding",
    "Fit",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "Laplace",
    "Learned",
    "Learns",
    "Level",
    "LogNormal",
    "LogUniform",
    "Marginals",
    "Need",
    "Normal",
    "Observable",
    "Observation",
    "Only",
    "Ordered",
    "Outcome",
    "PairedDensity",
    "Posterior",
    "Potential",
    "Prior",
    "Probabilities",
    "Proposal",
    "Simplex",
    "Simulator",
    "Status",
    "Strange",
    "StudentT",
    "Surrogate",
    "Truncated",
    "Trust",
    "Uniform",
    "Verdict",
    "X",
    "as_observation",
    "identity",
    "load_fit",
    "load_simulator",
    "observe",
    "predicted",
    "read_observation",
    "save_fit",
    "source_hash",
]
