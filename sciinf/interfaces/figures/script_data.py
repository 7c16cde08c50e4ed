"""Data that the page carries for its script: draws to select and download, predictions, and tables for papers.

The page may carry fewer draws than the answer has. These draws have equal weight and are rounded to a thousandth of
their standard deviation. Numbers shown as results are never computed from them (`interfaces.figures.numbers`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sciinf.core.draws import Draws
from sciinf.core.given import said_given
from sciinf.interfaces.figures.methods_text import bibtex, methods_text
from sciinf.interfaces.figures.numbers import PosteriorNumbers, latex, latex_values
from sciinf.interfaces.figures.prediction import predicted_data, selectable
from sciinf.interfaces.figures.run_folder import Run

_DRAWS, _NUMBERS = 1_000, 10_000


def script_data(runs: Mapping[str, tuple[Run, PosteriorNumbers]]) -> dict[str, Any]:
    """Data block of the page: parameters, draws and predictions of each answer, and the references to cite."""
    first = next(iter(runs.values()))[0]
    share = max(1, len(runs))
    answers = [_answer(name, run, numbers, share) for name, (run, numbers) in runs.items()]
    return {"simulator": first.name, "answers": answers, "bibtex": bibtex(methods_text(first)[1])}


def _answer(name: str, run: Run, numbers: PosteriorNumbers, share: int) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name or run.name, "levels": [float(f"{v:.6g}") for v in numbers.levels]}
    values = latex_values(run.probabilities)
    found["latex"] = [latex(numbers, level, values) for level in range(len(numbers.levels))] if numbers.names else []
    draws = run.pictured
    if draws is None or not draws.names:
        return found
    good = torch.isfinite(draws.theta).all(dim=1) & (draws.weights > 0)
    if int(good.sum()) < 2:
        return found
    kept = Draws(draws.names, draws.units, draws.theta[good], draws.log_weight[good])
    wanted = min(len(kept), _DRAWS, max(20, _NUMBERS // (share * len(draws.names))))
    theta = kept.resample(wanted, generator=torch.Generator().manual_seed(0)).double().numpy()
    places = [_places(float(sd)) for sd in kept.sd()]
    found |= {"names": list(draws.names), "units": list(draws.units), "of": _of(run, draws)}
    found["weighted"] = bool(draws.log_weight.max() > draws.log_weight.min())
    found["draws"] = _rounded(theta, places)
    rows = selectable(run, share)
    simulated_from = _whole(run.predicted_from[:rows], draws) if rows and not run.given else None
    if simulated_from is not None:
        found["from"] = _rounded(simulated_from, places)
        found["predicted"] = predicted_data(run, rows)
    return found


def _of(run: Run, draws: Draws) -> int | str:
    """Number of draws that the page's draws were taken from, in words if these are not all draws."""
    said = said_given(run.given)
    return f"{len(draws)} draws with {said}, of {len(run.draws or draws)}" if said else len(draws)


def _whole(theta: np.ndarray, draws: Draws) -> np.ndarray | None:
    """Complete draws, (m, D), that belong to `theta`.

    `theta` may hold the parameters alone, (m, d), without derived quantities. The result is None if a row of `theta` is
    not among the draws.
    """
    if theta.shape[1] == len(draws.names):
        return theta
    found = {tuple(row): i for i, row in enumerate(draws.of_parameters().theta.double().tolist())}
    at = [found.get(tuple(row), -1) for row in theta.astype(float).tolist()]
    return None if -1 in at else draws.theta.double().numpy()[at]


def _places(sd: float) -> int:
    """Number of decimal places of a thousandth of a standard deviation."""
    return 3 - math.floor(math.log10(sd)) if sd > 0 and math.isfinite(sd) else 12


def _rounded(theta: np.ndarray, places: list[int]) -> list[list[float]]:
    return [[round(float(v), p) for v, p in zip(row, places, strict=True)] for row in theta]


def downloads() -> str:
    """HTML buttons with which the page's script makes files to download."""
    kinds = {"csv": "Draws, CSV", "ecsv": "Draws, ECSV with units", "tex": "Table, LaTeX", "bib": "Citations, BibTeX"}
    buttons = "".join(f'<button type="button" data-file="{kind}">{words}</button>' for kind, words in kinds.items())
    return f'<details class="downloads script"><summary>Download</summary><p>{buttons}</p></details>'
