"""Bytes of archives of fields, against zfp with the same tolerance: a part of `generators.py`.

The Kolmogorov flow, frames 1 and 0.25 apart, and other equations. Ours is the whole file: parameters, what solutions
start from, solutions, description. Of zfp it is the bytes of the solutions alone, in fixed-accuracy mode, of the
arrangement that gives fewest: all trajectories together ("all"), one by one ("each"), all frames together ("frames"),
one by one ("frame"). zfp stays far below its tolerance, so "equal" is its fewest bytes at a tolerance at which its true
largest error is no more than ours. "sz3" is the fewest of SZ3's algorithms, where its package pysz is installed.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reporting import SIMULATORS, check, clock

from sciinf import load_simulator, simulate
from sciinf.core.loading import load_module
from sciinf.wrappers import Relative, archived, write_archive

ABSENT = "archive: zfpy is not installed; `python -m pip install --target peers zfpy`, then PYTHONPATH=peers"
OTHERS = {"shallow_water": 40, "gray_scott": 40, "burgers": 400, "kuramoto_sivashinsky": 400}
SHARES = (1e-2, 1e-3, 1e-4)
Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def archive(options: Any, out: Path) -> Found:
    """Rows of bytes, and what they are to be; where zfpy is missing, a check that fails and says how to get it."""
    try:
        zfp: Any = importlib.import_module("zfpy")
    except ImportError:
        return [], [check(ABSENT, 1.0, 0.0)]
    rows, checks = [], []
    for name, equation, count in equations(options.quick):
        store = simulate(equation, out / name, count, seed=options.seed, progress=False)
        u = store.load().x["u"].numpy()
        for share in SHARES:
            row = {"fields": name, "share": share, **ours(store, u, share, out)}
            row |= theirs(zfp, u, row["tolerance"], row["error"])
            row |= {"/ zfp": row["bytes"] / row["zfp"], "/ equal": row["bytes"] / row["equal"], "sz3": "-"}
            row |= sz3(u, row["tolerance"])
            rows.append(row)
            what = f"archive, {name}, {share:g} of the range"
            checks.append(check(f"{what}: largest error over the tolerance", row["error"] / row["tolerance"], 1.0))
            checks.append(check(f"{what}: writings that differ", float(row.pop("differ")), 0.0))
            if share == SHARES[0] and name.startswith("kolmogorov"):
                checks.append(check(f"{what}: bytes over zfp's", row["/ zfp"], 0.7))
                checks.append(check(f"{what}: bytes over zfp's at equal error", row["/ equal"], 0.7))
    return rows, checks


def equations(quick: bool) -> Iterator[tuple[str, Any, int]]:
    """Name, equation and number of trajectories."""
    module: Any = load_module(SIMULATORS / "pde" / "navier_stokes.py")
    for apart, count in ((1.0, 20 if quick else 40), (0.25, 5 if quick else 40)):
        times = tuple(apart * k for k in range(round(10 / apart) + 1))
        yield f"kolmogorov {apart:g}", module.kolmogorov(times=times), count
    for name, count in OTHERS.items():
        yield name, load_simulator(SIMULATORS / "pde" / f"{name}.py"), count // 5 if quick else count


def ours(store: Any, u: np.ndarray, share: float, out: Path) -> dict[str, Any]:
    """Bytes, seconds, and the largest error, of all numbers of the store that the archive becomes again."""
    tolerance = {name: Relative(share) for name in store.observables}
    started = clock("cpu")
    found = write_archive(store, out / "one", tolerance)
    wrote, started = clock("cpu") - started, clock("cpu")
    found.read()
    read = clock("cpu") - started
    write_archive(store, out / "two", tolerance)
    again = archived(out / "one", out=store.path.with_name(f"{store.path.name} {share}")).load().x["u"].numpy()
    one, two = (hashlib.sha256((out / name).read_bytes()).digest() for name in ("one", "two"))
    return {
        "numbers": u.size,
        "tolerance": found.tolerance["u"],
        "error": float(np.abs(again.astype(np.float64) - u).max()),
        "bytes": found.size,
        "bits": 8 * found.size / u.size,
        "MB/s written": u.nbytes / wrote / 1e6,
        "MB/s read": u.nbytes / read / 1e6,
        "differ": one != two,
    }


def theirs(zfp: Any, u: np.ndarray, tolerance: float, error: float) -> dict[str, Any]:
    """zfp's fewest bytes at a tolerance, its largest error, and its fewest where that error is no more than ours."""
    ways = {name: compressed(zfp, arrange(u), tolerance) for name, arrange in ARRANGED.items()}
    name = min(ways, key=lambda one: ways[one][0])
    equal = [found for k in range(8) for found in (compressed(zfp, ARRANGED[way](u), tolerance * 2**k) for way in ways)]
    return {
        "zfp": ways[name][0],
        "arranged": name,
        "zfp error": ways[name][1],
        "equal": min(size for size, off in equal if off <= error),
    }


def compressed(zfp: Any, arrays: Sequence[np.ndarray], tolerance: float) -> tuple[int, float]:
    """zfp's bytes of all arrays, and its largest error."""
    size, off = 0, 0.0
    for array in arrays:
        data = zfp.compress_numpy(np.ascontiguousarray(array), tolerance=tolerance)
        size += len(data)
        off = max(off, float(np.abs(zfp.decompress_numpy(data).astype(np.float64) - array).max()))
    return size, off


def sz3(u: np.ndarray, tolerance: float) -> dict[str, Any]:
    """SZ3's fewest bytes, of all arrangements and algorithms; nothing where it is not installed."""
    try:
        sz: Any = importlib.import_module("pysz")
    except ImportError:
        return {}
    sizes = []
    for arrange in ARRANGED.values():
        for algorithm in (sz.szAlgorithm.INTERP_LORENZO, sz.szAlgorithm.INTERP, sz.szAlgorithm.LORENZO_REG):
            how = sz.szConfig()
            how.errorBoundMode, how.absErrorBound, how.cmprAlgo = sz.szErrorBoundMode.ABS, tolerance, algorithm
            sizes.append(sum(sz.sz.compress(np.ascontiguousarray(array), how)[0].size for array in arrange(u)))
    return {"sz3": min(sizes)}


def fields_of(u: np.ndarray) -> np.ndarray:
    """Fields by channel, (row, channel, time, *space)."""
    return np.moveaxis(u, 2, 1)


ARRANGED: dict[str, Callable[[np.ndarray], Sequence[np.ndarray]]] = {
    "all": lambda u: list(np.moveaxis(fields_of(u), 1, 0)),
    "each": lambda u: list(fields_of(u).reshape(-1, u.shape[1], *u.shape[3:])),
    "frames": lambda u: [fields_of(u).reshape(-1, *u.shape[3:])],
    "frame": lambda u: list(fields_of(u).reshape(-1, *u.shape[3:])),
}
