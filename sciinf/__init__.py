"""sciinf: from a simulator and an observation to calibrated parameters.

    from sciinf import Flow, Prior, simulate, train, build_posterior, calibrate, query

Everything named here is imported from its module when it is first asked for, so `import sciinf` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciinf import wrappers
    from sciinf.answer import query
    from sciinf.calibration import calibrate
    from sciinf.checking import check_simulator
    from sciinf.core.estimator import Estimator
    from sciinf.core.fit import Fit, load_fit
    from sciinf.core.laws import Truncated
    from sciinf.core.posterior import Posterior
    from sciinf.core.prior import Prior
    from sciinf.core.proposal import Proposal
    from sciinf.core.results import Answer, Calibration, Draws
    from sciinf.core.simulator import Observable, Outcome, Simulator, Status, load_simulator
    from sciinf.estimators.flow import Flow
    from sciinf.inference.sequential import infer_sequentially, load_sequential
    from sciinf.posterior import build_posterior
    from sciinf.report import write_report
    from sciinf.simulation import repair, simulate
    from sciinf.store import Store
    from sciinf.training import Recipe, train, train_ensemble

__all__ = [
    "Answer",
    "Calibration",
    "Draws",
    "Estimator",
    "Fit",
    "Flow",
    "Observable",
    "Outcome",
    "Posterior",
    "Prior",
    "Proposal",
    "Recipe",
    "Simulator",
    "Status",
    "Store",
    "Truncated",
    "build_posterior",
    "calibrate",
    "check_simulator",
    "infer_sequentially",
    "load_fit",
    "load_sequential",
    "load_simulator",
    "query",
    "repair",
    "simulate",
    "train",
    "train_ensemble",
    "wrappers",
    "write_report",
]

_NAMES_IN = {
    "sciinf.core.estimator": ("Estimator",),
    "sciinf.core.fit": ("Fit", "load_fit"),
    "sciinf.core.laws": ("Truncated",),
    "sciinf.core.posterior": ("Posterior",),
    "sciinf.core.prior": ("Prior",),
    "sciinf.core.proposal": ("Proposal",),
    "sciinf.core.results": ("Answer", "Calibration", "Draws"),
    "sciinf.core.simulator": ("Observable", "Outcome", "Simulator", "Status", "load_simulator"),
    "sciinf.store": ("Store",),
    "sciinf.estimators.flow": ("Flow",),
    "sciinf.checking": ("check_simulator",),
    "sciinf.simulation": ("repair", "simulate"),
    "sciinf.training": ("Recipe", "train", "train_ensemble"),
    "sciinf.inference.sequential": ("infer_sequentially", "load_sequential"),
    "sciinf.posterior": ("build_posterior",),
    "sciinf.calibration": ("calibrate",),
    "sciinf.answer": ("query",),
    "sciinf.report": ("write_report",),
}
_HOME = {name: module for module, names in _NAMES_IN.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "wrappers":
        return importlib.import_module("sciinf.wrappers")
    if name == "__version__":
        from importlib.metadata import version

        return version("sciinf")
    if name not in _HOME:
        raise AttributeError(f"module 'sciinf' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
