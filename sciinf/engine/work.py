"""What a store says to workers that join later: where its simulator is."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import torch

from sciinf.core.files import read_json, write_json
from sciinf.core.simulator import Simulator
from sciinf.storage.durable import writing
from sciinf.store import Store

NOTE = "work.json"


def note_of(
    store: Store, simulator: Simulator, *, device: str | torch.device = "cpu", timeout: float | None = None
) -> None:
    """Write down, beside a store, what a worker needs to know: the simulator's file, the device, the deadline.

    A simulator that is in no file leaves no note.

    Raises:
        OSError: If it cannot be written.
    """
    if simulator.source is None:
        return
    data = {"source": str(Path(simulator.source).resolve()), "device": str(device), "timeout": timeout}
    with suppress(OSError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if read_json(store.path / NOTE) == data:
            return
    with writing(store.path):
        write_json(store.path / NOTE, data)
