"""sciinf: from a simulator and an observation to calibrated parameters.

    from sciinf import Flow, Prior, simulate, train, build_posterior, calibrate, query

Everything named here is imported from its module when it is first asked for, so `import sciinf` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf import wrappers
    from sciinf.answer import load_answer, query
    from sciinf.calibration import calibrate
    from sciinf.checking import check_simulator
    from sciinf.commands.workflow import infer
    from sciinf.core.answer import Answer
    from sciinf.core.diagnostic import Diagnostic
    from sciinf.core.draws import Draws
    from sciinf.core.estimator import Estimator
    from sciinf.core.existence import Each, Only
    from sciinf.core.findings import Finding, Level
    from sciinf.core.fit import Fit, load_fit
    from sciinf.core.joint_laws import Ordered, Simplex
    from sciinf.core.laws import Truncated
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
    from sciinf.core.posterior import Posterior
    from sciinf.core.prior import Prior
    from sciinf.core.proposal import Proposal
    from sciinf.core.records import Calibration
    from sciinf.core.simulator import Observable, Outcome, Simulator, Status, load_simulator
    from sciinf.core.unknown_law import Unknown
    from sciinf.core.verdict import Verdict
    from sciinf.engine.cluster import Cluster
    from sciinf.engine.slurm_array import SlurmArray
    from sciinf.engine.workers import Here, Workers
    from sciinf.estimators._changes import Changes
    from sciinf.estimators.auxiliary_score import AuxiliaryScore
    from sciinf.estimators.elements import Elements
    from sciinf.estimators.flow import Flow
    from sciinf.estimators.gnpe import GNPE
    from sciinf.estimators.joint import Joint
    from sciinf.estimators.likelihood import Likelihood
    from sciinf.estimators.matching import Matching
    from sciinf.estimators.mixed import Mixed
    from sciinf.estimators.ratio import Ratio
    from sciinf.estimators.score import Score
    from sciinf.inference.compositional import Compositional
    from sciinf.inference.conditional import Conditional
    from sciinf.inference.corrected import correct
    from sciinf.inference.distillation import distil
    from sciinf.inference.refined import load_refined, refine_around
    from sciinf.inference.sequential import infer_sequentially, load_sequential
    from sciinf.posterior import build_posterior, load_posterior
    from sciinf.report import write_report
    from sciinf.serve.client import connect
    from sciinf.simulation import repair, simulate
    from sciinf.store import Store
    from sciinf.surveys.answers import Answers, load_answers
    from sciinf.surveys.asking import query_all
    from sciinf.training import Recipe, train, train_ensemble
    from sciinf.trust.scores.coverage_of_neurons import NeuronCoverage
    from sciinf.trust.scores.hierarchy import HierarchicalRatio
    from sciinf.trust.scores.noise_time import DiffusionTime
    from sciinf.trust.scores.planted import PlantedFaults

__all__ = [
    "GNPE",
    "Answer",
    "Answers",
    "AuxiliaryScore",
    "Beta",
    "Calibration",
    "Cauchy",
    "Changes",
    "Choice",
    "Cluster",
    "Compositional",
    "Conditional",
    "Counts",
    "Diagnostic",
    "DiffusionTime",
    "Draws",
    "Each",
    "Elements",
    "Estimator",
    "Exponential",
    "Finding",
    "Fit",
    "Flow",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "Here",
    "HierarchicalRatio",
    "Joint",
    "Laplace",
    "Level",
    "Likelihood",
    "LogNormal",
    "LogUniform",
    "Matching",
    "Mixed",
    "NeuronCoverage",
    "Normal",
    "Observable",
    "Only",
    "Ordered",
    "Outcome",
    "PlantedFaults",
    "Posterior",
    "Prior",
    "Proposal",
    "Ratio",
    "Recipe",
    "Score",
    "Simplex",
    "Simulator",
    "SlurmArray",
    "Status",
    "Store",
    "StudentT",
    "Truncated",
    "Uniform",
    "Unknown",
    "Verdict",
    "Workers",
    "build_posterior",
    "calibrate",
    "check_simulator",
    "connect",
    "correct",
    "distil",
    "infer",
    "infer_sequentially",
    "load_answer",
    "load_answers",
    "load_fit",
    "load_posterior",
    "load_refined",
    "load_sequential",
    "load_simulator",
    "query",
    "query_all",
    "refine_around",
    "repair",
    "simulate",
    "train",
    "train_ensemble",
    "wrappers",
    "write_report",
]

_NAMES_IN = {
    "core.estimator": ("Estimator",),
    "core.existence": ("Each", "Only"),
    "core.fit": ("Fit", "load_fit"),
    "core.joint_laws": ("Ordered", "Simplex"),
    "core.laws": ("Truncated",),
    "core.levels": ("Choice", "Counts"),
    "core.named_laws": (
        "Beta",
        "Cauchy",
        "Exponential",
        "Gamma",
        "HalfCauchy",
        "HalfNormal",
        "Laplace",
        "LogNormal",
        "LogUniform",
        "Normal",
        "StudentT",
        "Uniform",
    ),
    "core.posterior": ("Posterior",),
    "core.prior": ("Prior",),
    "core.proposal": ("Proposal",),
    "core.answer": ("Answer",),
    "core.draws": ("Draws",),
    "core.diagnostic": ("Diagnostic",),
    "core.findings": ("Finding", "Level"),
    "core.records": ("Calibration",),
    "core.verdict": ("Verdict",),
    "core.simulator": ("Observable", "Outcome", "Simulator", "Status", "load_simulator"),
    "core.unknown_law": ("Unknown",),
    "store": ("Store",),
    "estimators._changes": ("Changes",),
    "estimators.auxiliary_score": ("AuxiliaryScore",),
    "estimators.elements": ("Elements",),
    "estimators.flow": ("Flow",),
    "estimators.gnpe": ("GNPE",),
    "estimators.joint": ("Joint",),
    "estimators.likelihood": ("Likelihood",),
    "estimators.matching": ("Matching",),
    "estimators.mixed": ("Mixed",),
    "estimators.ratio": ("Ratio",),
    "estimators.score": ("Score",),
    "inference.compositional": ("Compositional",),
    "inference.conditional": ("Conditional",),
    "inference.corrected": ("correct",),
    "inference.distillation": ("distil",),
    "checking": ("check_simulator",),
    "engine.cluster": ("Cluster",),
    "engine.slurm_array": ("SlurmArray",),
    "engine.workers": ("Here", "Workers"),
    "commands.workflow": ("infer",),
    "simulation": ("repair", "simulate"),
    "training": ("Recipe", "train", "train_ensemble"),
    "inference.refined": ("load_refined", "refine_around"),
    "inference.sequential": ("infer_sequentially", "load_sequential"),
    "posterior": ("build_posterior", "load_posterior"),
    "calibration": ("calibrate",),
    "answer": ("load_answer", "query"),
    "surveys.answers": ("Answers", "load_answers"),
    "surveys.asking": ("query_all",),
    "report": ("write_report",),
    "serve.client": ("connect",),
    "trust.scores.coverage_of_neurons": ("NeuronCoverage",),
    "trust.scores.hierarchy": ("HierarchicalRatio",),
    "trust.scores.noise_time": ("DiffusionTime",),
    "trust.scores.planted": ("PlantedFaults",),
}
_find, _offered = offered(__name__, {name: module for module, names in _NAMES_IN.items() for name in names})


def __getattr__(name: str) -> Any:
    if name == "wrappers":
        return importlib.import_module("sciinf.wrappers")
    if name == "__version__":
        from importlib.metadata import version

        return version("sciinf")
    return _find(name)


def __dir__() -> list[str]:
    return [*_offered(), "wrappers", "__version__"]
