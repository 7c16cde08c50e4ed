"""sciinf: from a simulator and an observation to calibrated parameters.

    from sciinf import Flow, Prior, simulate, train, build_posterior, calibrate, query

Everything named here is imported from its module when it is first asked for, so `import sciinf` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    # A model: parameters with their prior, data with their shapes, and the program between them.
    from sciinf import wrappers as wrappers
    from sciinf.core.existence import Each as Each, Only as Only
    from sciinf.core.joint_laws import Ordered as Ordered, Simplex as Simplex
    from sciinf.core.laws import Truncated as Truncated
    from sciinf.core.levels import Choice as Choice, Counts as Counts
    from sciinf.core.named_laws import Beta as Beta, Cauchy as Cauchy, Exponential as Exponential, Gamma as Gamma
    from sciinf.core.named_laws import HalfCauchy as HalfCauchy, HalfNormal as HalfNormal, Laplace as Laplace
    from sciinf.core.named_laws import LogNormal as LogNormal, LogUniform as LogUniform, Normal as Normal
    from sciinf.core.named_laws import StudentT as StudentT, Uniform as Uniform
    from sciinf.core.observable import Observable as Observable
    from sciinf.core.prior import Prior as Prior
    from sciinf.core.simulator import Simulator as Simulator, load_simulator as load_simulator
    from sciinf.core.unknown_law import Unknown as Unknown
    from sciinf.diagnostics.checking import check_simulator as check_simulator

    # The whole way in one call.
    from sciinf.interfaces.commands.workflow import infer as infer
    from sciinf.posteriors.of_set import infer_set as infer_set, load_set as load_set

    # Simulations on disk.
    from sciinf.campaigns.simulation import simulate as simulate

    # Estimators, and their training.
    from sciinf.core.fit import load_fit as load_fit
    from sciinf.training import Recipe as Recipe, train as train, train_ensemble as train_ensemble
    from sciinf.training.estimators._changes import Changes as Changes
    from sciinf.training.estimators.elements import Elements as Elements
    from sciinf.training.estimators.flow import Flow as Flow
    from sciinf.training.estimators.gnpe import GNPE as GNPE
    from sciinf.training.estimators._items import Items as Items
    from sciinf.training.estimators.joint import Joint as Joint
    from sciinf.training.estimators.likelihood import Likelihood as Likelihood
    from sciinf.training.estimators.matching import Matching as Matching
    from sciinf.training.estimators.mixed import Mixed as Mixed
    from sciinf.training.estimators.ratio import Ratio as Ratio
    from sciinf.training.estimators.score import Score as Score

    # From a trained estimator to a posterior whose calibration is known.
    from sciinf.diagnostics.calibration import calibrate as calibrate
    from sciinf.posteriors.compositional import Compositional as Compositional
    from sciinf.posteriors.conditional import Conditional as Conditional
    from sciinf.posteriors.corrected import correct as correct
    from sciinf.posteriors.posterior import build_posterior as build_posterior

    # Answers to questions.
    from sciinf.core.answer import Answer as Answer
    from sciinf.interfaces.answer import load_answer as load_answer, query as query
    from sciinf.interfaces.asking import load_posterior as load_posterior
    from sciinf.interfaces.report import write_report as write_report
    from sciinf.interfaces.serve.client import connect as connect
    from sciinf.interfaces.surveys.answers import load_answers as load_answers
    from sciinf.interfaces.surveys.asking import query_all as query_all
    from sciinf.posteriors.refined import refine_around as refine_around

_find, _offered = offered(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "wrappers":
        return importlib.import_module("sciinf.wrappers")
    if name == "__version__":
        from importlib.metadata import version

        return version("sciinf")
    return _find(name)


def __dir__() -> list[str]:
    return [*_offered(), "__version__"]
