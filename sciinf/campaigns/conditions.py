"""Conditions of simulations: versions, processor and device, which decide the last bits besides simulator and seed."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from sciinf.core.code import packages
from sciinf.core.simulator import Simulator

_ALWAYS = ("sciinf", "torch", "numpy")


def conditions(simulator: Simulator, device: str | torch.device) -> dict[str, str]:
    """Conditions of simulations: versions of Python and of imported packages, processor, device; name -> text."""
    return dict(_conditions(simulator.source, str(device)))


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Differences between conditions, such as "torch 2.7 -> 2.8"; "" if there are none."""
    if not before:
        return "an earlier version of sciinf did not write down under which conditions"
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'unknown')} -> {now.get(name, 'unknown')}" for name in names)


def decisive(found: Mapping[str, str]) -> dict[str, str]:
    """Conditions that must be the same on all machines: versions, which decide the last bits.

    The processor may differ.
    """
    kept = {name: value for name, value in found.items() if name not in ("processor", "device")}
    return kept | {"python": ".".join(kept["python"].split(".")[:2])} if "python" in kept else kept


@lru_cache(maxsize=8)
def _conditions(source: Path | None, device: str) -> tuple[tuple[str, str], ...]:
    names = [*_ALWAYS, *([] if source is None else sorted(packages(source)))]
    found = {"python": platform.python_version()} | {name: _version(name) for name in dict.fromkeys(names)}
    found["processor"] = _processor()
    kind = torch.device(device).type
    found["device"] = kind if kind != "cuda" else f"cuda {torch.cuda.get_device_name(device)}"
    return tuple(found.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
    of = importlib.metadata.packages_distributions().get(name)  # The package may have another name than its module.
    return importlib.metadata.version(of[0]) if of else "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor()} ({platform.machine()})"
