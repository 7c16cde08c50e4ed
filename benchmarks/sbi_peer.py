"""sbi's NPE, NPSE and FMPE with their defaults, as peers: trained once and kept, timed anew beside what they meet.

A training of sbi takes minutes and gives the same network each time, so its weights and its number of epochs are kept
in a cache, by machine, versions, simulations and seed. Its speed is not: each run trains a few epochs again, and the
cost of the whole training is its number of epochs times that.
"""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributions as td

from sciinf import Simulator
from sciinf.campaigns import Store
from sciinf.core.files import versions

Kind = Literal["nsf", "maf", "npse", "fmpe"]
SET_METHODS = ("fnpe", "gauss", "auto_gauss", "jac_gauss")
MEMORY = 12 * 2**30  # bytes that draws of a set may take: jac_gauss asks for over 23 GiB for a hundred observations
TIMED_ROWS = 30_000  # rows in the epochs that are timed, three epochs at least


@dataclass(frozen=True)
class Peer:
    """A trained sbi posterior.

    Args:
        estimator: Its network.
        posterior: Its posterior.
        cpu: CPU seconds of the whole training: set-up, and epochs times the seconds of an epoch measured now.
        wall: Wall seconds of the same.
        file: Where figures of this training are kept.
    """

    estimator: Any
    posterior: Any
    cpu: float
    wall: float
    file: Path

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Log density of each row of theta given its own row of x; of a flow."""
        with torch.no_grad():
            parts = [
                self.estimator.log_prob(theta[None, i : i + 1000], condition=x[i : i + 1000])[0]
                for i in range(0, len(theta), 1000)
            ]
        return torch.cat(parts)

    def remembered(self, name: str, compute: Any) -> Any:
        """A figure of this training from the cache, or computed and kept there."""
        record = json.loads(self.file.read_text())
        if name not in record:
            record[name] = compute()
            self.file.write_text(json.dumps(record))
        return record[name]


def train_peer(kind: Kind, simulator: Simulator, store: Store, seed: int, cache: Path) -> Peer:
    """Train sbi's estimator on a store, or read what that gave before, and time it.

    Args:
        kind: sbi's name of the flow of its NPE, "nsf" or "maf"; or "npse" or "fmpe".
        simulator: Whose simulations they are.
        store: The simulations.
        seed: sbi's global seed.
        cache: Folder of trainings kept.
    """
    warnings.filterwarnings("ignore", module="sbi")
    key = f"{kind} {_digest(store)} {seed} {versions()['sbi']} {versions()['torch']} {platform.node()}"
    stem = hashlib.sha256(key.encode()).hexdigest()[:16]
    record, weights = cache / f"{stem}.json", cache / f"{stem}.safetensors"
    if not (record.is_file() and weights.is_file()):
        _train_to_the_end(kind, simulator, store, seed, record, weights)
    return _timed(kind, simulator, store, seed, record, weights)


def _digest(store: Store) -> str:
    """Of the numbers alone."""
    batch = store.load()
    return hashlib.sha256(batch.theta.numpy().tobytes() + batch.x["x"].numpy().tobytes()).hexdigest()


def _train_to_the_end(kind: Kind, simulator: Simulator, store: Store, seed: int, record: Path, weights: Path) -> None:
    from safetensors.torch import save_file

    _, estimator, epochs, cpu, wall = _train(kind, simulator, store, seed, None)
    record.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in estimator.state_dict().items()}, weights)
    record.write_text(json.dumps({"epochs": epochs, "CPU s when trained": cpu, "wall s when trained": wall}))


def _timed(kind: Kind, simulator: Simulator, store: Store, seed: int, record: Path, weights: Path) -> Peer:
    from safetensors.torch import load_file

    _train(kind, simulator, store, seed, 1)  # whatever is loaded lazily is not part of the cost
    _, _, few, cpu_few, wall_few = _train(kind, simulator, store, seed, 1)
    timed = 1 + max(3, TIMED_ROWS // len(store))
    inference, estimator, more, cpu_more, wall_more = _train(kind, simulator, store, seed, timed)
    epochs = json.loads(record.read_text())["epochs"]
    cpu = cpu_few + (epochs - few) * (cpu_more - cpu_few) / (more - few)
    wall = wall_few + (epochs - few) * (wall_more - wall_few) / (more - few)
    estimator.load_state_dict(load_file(weights))
    return Peer(estimator, inference.build_posterior(estimator), cpu, wall, record)


def _train(
    kind: Kind, simulator: Simulator, store: Store, seed: int, epochs: int | None
) -> tuple[Any, Any, int, float, float]:
    """Inference object, network, epochs, CPU seconds and wall seconds."""
    from sbi.inference import FMPE, NPE, NPSE
    from sbi.utils.tracking import TensorBoardTracker
    from torch.utils.tensorboard import SummaryWriter

    batch = store.load()
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as logs, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracker = TensorBoardTracker(SummaryWriter(logs))  # its default writes into the working folder
        started, wall = time.process_time(), time.perf_counter()
        given: dict[str, Any] = {"prior": sbi_prior(simulator), "show_progress_bars": False, "tracker": tracker}
        if kind in ("nsf", "maf"):
            inference = NPE(density_estimator=kind, **given)
        else:
            inference = {"npse": NPSE, "fmpe": FMPE}[kind](**given)
        inference.append_simulations(batch.theta, batch.x["x"])
        estimator = inference.train() if epochs is None else inference.train(max_num_epochs=epochs)
        spent = time.process_time() - started, time.perf_counter() - wall
        tracker.flush()
    return inference, estimator.eval(), int(inference.summary["epochs_trained"][-1]), *spent


def sample_set(posterior: Any, x: Tensor, method: str, draws: int, patience: int) -> Tensor:
    """Draws of an NPSE posterior of a set x (n, E) by one of `SET_METHODS`; none where it fails or takes too much."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no draws within {patience} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(patience)
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, most))
    try:
        return posterior.sample((draws,), x=x, iid_method=method, show_progress_bars=False)
    except (TimeoutError, MemoryError, RuntimeError, ValueError, AssertionError) as error:
        print(f"sbi {method}: {type(error).__name__} {error}", file=sys.stderr)
        return torch.empty(0, x.shape[1])
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def sbi_prior(simulator: Simulator) -> td.Distribution:
    """The simulator's prior as sbi takes it."""
    from sbi.utils import BoxUniform, MultipleIndependent

    laws = simulator.prior.laws
    boxes = [law for law in laws if isinstance(law, td.Uniform)]
    if len(boxes) == len(laws):
        return BoxUniform(torch.stack([law.low for law in boxes]), torch.stack([law.high for law in boxes]))
    if len(laws) == 1:
        return laws[0]
    return MultipleIndependent([law.expand((1,)) for law in laws], validate_args=False)


def c2st(a: Tensor, b: Tensor) -> float:
    """sbi's classifier two-sample test (five folds, equal sizes); 0.5 is perfect."""
    from sbi.utils.metrics import c2st as test

    n = min(len(a), len(b))
    return float(test(a[:n], b[:n]))
