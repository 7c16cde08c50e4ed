"""The answer of `pipelines/gravitational_wave.py` against nested sampling of the same likelihood: figures and time.

    python benchmarks/gravitational_wave.py --h1 FILE --l1 FILE --fit runs/gravitational_wave/fit

The fit is what the pipeline leaves. "corrected": draws weighted by the likelihood until their effective size is 1,000;
"amortised": 2,000 draws of the network's chains. dynesty, which the field uses most and bilby (extra "test") brings,
draws from the same likelihood with 500 live points and random walks. Means are compared in sds of dynesty's posterior;
CPU seconds in one run. What dynesty gave is kept in `--cache`, with the seconds it took. `--quick` takes 100 points.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import arguments, check, clock, finish
from torch import Tensor

from sciinf import Simulator, build_posterior, load_fit, load_simulator
from sciinf.core import Fit, X

HERE = Path(__file__).parent
WALKS = 60  # steps of a random walk


def main() -> None:
    """Print the comparison."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--h1", type=Path, required=True, help="strain of H1")
    parser.add_argument("--l1", type=Path, required=True, help="strain of L1")
    parser.add_argument("--gps", type=float, default=1126259462.4, help="time of the trigger")
    parser.add_argument("--fit", type=Path, required=True, help="what the pipeline trained")
    parser.add_argument("--cache", type=Path, default=Path("runs/gravitational_wave_nested"), help="dynesty's draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    simulator: Any = load_simulator(HERE.parent / "simulators" / "gravitational_wave")
    x = {name: value[None] for name, value in simulator.observe(options.h1, options.l1, gps=options.gps).items()}
    nested, spent = sampled(simulator, x, 100 if options.quick else 500, options)
    module = type(simulator).__module__

    def fitted() -> Fit:  # anew for each question, for a network keeps the chains of the last
        return load_fit(options.fit, trust=(module, f"{module}.summary"))

    posterior = build_posterior(fitted())
    started = clock("cpu")
    with warnings.catch_warnings(record=True) as caught:
        raw = posterior.draw_batched(x, 2_000, generator=torch.Generator().manual_seed(options.seed))[:, 0]
    amortised = clock("cpu") - started
    corrected = build_posterior(fitted(), simulator, ess=1_000, budget=6_000)
    started = clock("cpu")
    draws = corrected.draw(x, 1_000, generator=torch.Generator().manual_seed(options.seed))
    seconds = clock("cpu") - started
    mean, sd, rows, checks = draws.mean(), draws.sd(), [], []
    for k, name in enumerate(simulator.prior.names):
        centre, width = float(nested[:, k].mean()), float(nested[:, k].std())
        off = (float(mean[k]) - centre) / width
        row = {
            "parameter": name,
            "nested": centre,
            "sd": width,
            "corrected": float(mean[k]),
            "corrected sd": float(sd[k]),
        }
        rows.append(row | {"amortised": float(raw[:, k].mean()), "amortised sd": float(raw[:, k].std())})
        checks.append(check(f"{name}: mean off by, in sds", abs(off), 0.2))
        ratio = float(sd[k]) / width
        checks.append(check(f"{name}: sd ratio, the larger way round", max(ratio / 1.25, 0.8 / ratio), 1.0))
    efficiency = draws.ess / len(draws.theta)
    checks.append(check("1 / importance efficiency", 1 / efficiency, 100.0))
    checks.append(check("corrected: seconds / dynesty's", seconds / spent, 1 / 20))
    shown = {"dynesty s": spent, "corrected s": seconds, "amortised s": amortised, "warnings": float(len(caught))}
    print(json.dumps(shown | {"efficiency": efficiency, "ess": draws.ess}), file=sys.stderr)
    finish(rows + [{"parameter": name, "nested": value} for name, value in shown.items()], checks, options.json)


def sampled(simulator: Simulator, x: X, live: int, options: Any) -> tuple[Tensor, float]:
    """Equally weighted draws of nested sampling (n, 7), and its CPU seconds."""
    about = b"".join(value.numpy().tobytes() for _, value in sorted(x.items()))
    about += f"{simulator.prior.to_json()} {live} {WALKS} {options.seed}".encode()
    file = options.cache / f"{hashlib.sha256(about).hexdigest()[:16]}.npz"
    if file.is_file():
        known = np.load(file)
        return torch.from_numpy(known["draws"]), float(known["seconds"])
    from dynesty import NestedSampler

    bijection, names = simulator.prior.bijection, simulator.prior.names

    def transform(u: Any) -> Any:
        z = torch.special.ndtri(torch.from_numpy(u).clamp(1e-12, 1 - 1e-12))
        return bijection.inverse(z[None])[0].numpy()

    def log_likelihood(theta: Any) -> float:
        if simulator.log_likelihood is None:
            raise ValueError("the simulator has no likelihood")
        return float(simulator.log_likelihood(torch.from_numpy(theta)[None], x)[0])

    started = clock("cpu")
    make: Any = NestedSampler  # a class whose arguments type checkers do not see
    sampler = make(
        log_likelihood,
        transform,
        len(names),
        nlive=live,
        sample="rwalk",
        walks=WALKS,
        rstate=np.random.default_rng(options.seed),
    )
    sampler.run_nested(dlogz=0.1, print_progress=False)
    draws = sampler.results.samples_equal(rstate=np.random.default_rng(options.seed))
    spent = clock("cpu") - started
    options.cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, draws=draws, seconds=spent)
    return torch.from_numpy(draws), spent


if __name__ == "__main__":
    main()
