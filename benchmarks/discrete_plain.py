"""What a prior of continuous parameters costs, beside an earlier version: a part of `discrete.py`.

Both train the same flow on the same simulations of hares and lynx and answer for the same record, in processes of
their own, in turns; the least CPU seconds of each count. Weights must be the same to the last bit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from reporting import check

ROOT = Path(__file__).parent.parent
WORK = """
import hashlib, json, sys, time, torch
from pathlib import Path
from sciinf import Flow, Recipe, build_posterior, load_simulator, query, simulate, train
torch.set_num_threads(1)
out, rows, epochs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
simulator = load_simulator(Path(sys.argv[4]) / "lotka_volterra.py")
store = simulate(simulator, out / "store", rows, seed=0, progress=False)
started = time.process_time()
recipe = Recipe(epochs=epochs, processes=1)
fit = train(Flow(simulator.prior, simulator.observables), store, out / "fit", recipe=recipe, progress=False)
trained = time.process_time() - started
data = simulator.observe(Path(sys.argv[4]) / "hudson_bay.csv")
posterior = build_posterior(fit)
query(posterior, data, draws=1_000)
started = time.process_time()
for seed in range(5):
    answer = query(posterior, data, draws=10_000, seed=seed)
asked = time.process_time() - started
bits = hashlib.sha256(answer.draws.theta.numpy().tobytes()).hexdigest()
files = hashlib.sha256((out / "fit" / "model.safetensors").read_bytes()).hexdigest()
print(json.dumps({"training s": trained, "query s": asked, "draws": bits[:12], "weights": files[:12]}))
"""


def plain(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both in turns."""
    before = options.before
    if before is None:
        print("plain: left out, for --before names no earlier checkout", file=sys.stderr)
        return [], []
    rows = list[dict[str, Any]]()
    for turn in range(2 if options.quick else 5):
        for name, folder in (("before", Path(before)), ("now", ROOT)):
            said = _run(folder, out / f"{name} {turn}", 4_000 if options.quick else 20_000)
            rows.append({"version": name, **said})
    checks = []
    for what in ("training s", "query s"):
        least = {name: min(row[what] for row in rows if row["version"] == name) for name in ("before", "now")}
        checks.append(check(f"plain: {what} / before", least["now"] / least["before"], 1.02))
    different = len({(row["draws"], row["weights"]) for row in rows}) - 1
    checks.append(check("plain: other bits of weights or draws", different, 0))
    return rows, checks


def _run(folder: Path, out: Path, rows: int) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", WORK, str(out), str(rows), "4", str(ROOT / "simulators")]
    found = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return json.loads(found.stdout.splitlines()[-1])
