"""Options of `infer`, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sciinf.campaigns.campaign import Engine, check_engine
from sciinf.core import Estimator
from sciinf.core.checks import check_whole, check_workers
from sciinf.interfaces.commands.estimators import check_estimator
from sciinf.interfaces.commands.options import check_device

_WHOLE = {"n": 100, "calibration": 100, "most": 100, "budget": 1, "seed": 0}
_MAY_BE_NONE = ("calibration", "most")
_YES_OR_NO = ("until_calibrated", "accept_changes", "progress")
_WORDS = {"refine": ("auto", "off"), "failures": ("exclude", "outcome", "model")}


@dataclass(frozen=True, kw_only=True)
class InferOptions:
    """Options of `infer` and of the command `sciinf infer`; the docstring of `infer` describes them.

    `reader_options` are the `options` of `infer`: keyword arguments of the function that reads the simulator's files.

    Raises:
        TypeError: If the estimator is neither a name nor an `Estimator`.
        ValueError: If another option is out of its range.
    """

    n: int
    calibration: int | None = None
    until_calibrated: bool = False
    most: int | None = None
    refine: Literal["auto", "off"] = "auto"
    ess: float = 2_000
    budget: int = 1_000_000
    seed: int = 0
    workers: int | Literal["auto"] = 1
    engine: Engine | None = None
    device: str = "cpu"
    estimator: str | Estimator = "flow"
    level: float = 0.9
    failures: Literal["exclude", "outcome", "model"] = "exclude"
    accept_changes: bool = False
    progress: bool = True
    reader_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            if getattr(self, name) is not None or name not in _MAY_BE_NONE:
                check_whole(name, getattr(self, name), least)
        check_workers(self.workers)
        check_engine(self.engine, self.workers)
        for name, words in _WORDS.items():
            if getattr(self, name) not in words:
                raise ValueError(f"{name} is one of {', '.join(map(repr, words))}, got {getattr(self, name)!r}")
        for name, value, most in (("level", self.level, 1.0), ("ess", self.ess, math.inf)):
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < most:
                raise ValueError(
                    f"{name} is a number above 0{f' and below {most:g}' if most == 1 else ''}, got {value!r}"
                )
        for name in _YES_OR_NO:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is True or False, got {getattr(self, name)!r}")
        if not isinstance(self.estimator, str | Estimator):
            kind = type(self.estimator).__name__
            raise TypeError(f"estimator is the name of one, such as 'flow', or one that was built, got {kind}")
        if isinstance(self.estimator, str):
            check_estimator(self.estimator)
        check_device(self.device)

    @property
    def simulating(self) -> dict[str, Any]:
        """Keyword arguments of `simulate`."""
        names = ("workers", "engine", "device", "accept_changes", "progress")
        return {name: getattr(self, name) for name in names}

    @property
    def asking(self) -> dict[str, Any]:
        """Keyword arguments of `query`."""
        return {"level": self.level, "failures": self.failures, "seed": self.seed}
