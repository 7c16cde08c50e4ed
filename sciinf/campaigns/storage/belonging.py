"""Check whether the fit in a run folder belongs to this run, or files of two runs were mixed.

A fit records the simulations on which it was trained: their digest, and their simulator and seed. The run folder holds
these simulations, and `provenance.json` holds the digests of what the run made. A folder with neither of them cannot be
checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sciinf.campaigns.storage.description import read_description
from sciinf.campaigns.storage.objects import store_at
from sciinf.core.files import read_json
from sciinf.core.fit import campaign_of

_STORES = ("simulations", "training")  # The second one is in the folder of a round.


def foreign_fit(run: Path, fit: Mapping[str, Any]) -> str:
    """Explain why a fit does not belong to its run folder, and the way out; "" if it belongs there or this is unknown.

    A run may have got more simulations since it was trained. So a fit belongs to the run if its simulator and seed are
    those of the run's simulations.

    Args:
        run: The run folder.
        fit: Content of `fit.json`.
    """
    said = _digests(run)
    trained, simulator = fit.get("store"), fit.get("simulator")
    if not isinstance(trained, Mapping) or not isinstance(simulator, Mapping) or "seed" not in trained:
        return ""
    if said.get("fit") == fit.get("digest"):
        return ""
    stores = [store for name in _STORES if (store := _campaign(run / name)) is not None]
    if campaign_of(simulator, trained["seed"]) in [campaign_of(*store) for store in stores]:
        return ""
    if stores:
        is_of = f"the run holds {_named(*stores[0])}"
    elif said.get("simulations") not in (None, trained.get("digest")):
        is_of = "provenance.json names another fit and other simulations"
    else:
        return ""
    return (
        f"the fit in {run} is not that of this run: it was trained on {_named(simulator, trained['seed'])}, and "
        f"{is_of}. Put back the run's own fit, calibration.json and reference.safetensors, or make them again with the "
        "command that made them. Ask a fit of another run in a folder without these simulations and provenance.json"
    )


def _named(simulator: Mapping[str, str], seed: int) -> str:
    return f"simulations of {simulator.get('name', 'no name')!r} (code {simulator.get('source', '')[-8:]}, seed {seed})"


def _digests(run: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError, AttributeError):
        return read_json(run / "provenance.json").get("digests") or {}
    return {}


def _campaign(folder: Path) -> tuple[Mapping[str, str], int] | None:
    """Simulator and seed of a store; None if there is no store, or it cannot be read."""
    with suppress(OSError, ValueError, KeyError):
        if (store := store_at(folder)) is not None:
            data = read_description(store)
            return data["simulator"], data["seed"]
    return None
