"""SIR against SEIR on the influenza record by weights, dynesty and draws of the prior: a part of `discrete.py`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from discrete_nested import evidence_by
from dynesty_peer import log_evidence
from reporting import SIMULATORS, check, clock

from sciinf import Mixed, build_posterior, load_simulator, simulate, train
from sciinf.simulators.wrappers.numpyro_model import precision


def epidemics(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The evidence of each model."""
    simulator: Any = load_simulator(SIMULATORS / "two_epidemics.py")
    store = simulate(simulator, out / "store", 8_000 if options.quick else 40_000, seed=options.seed)
    started = clock("cpu")
    fit: Any = train(
        Mixed(simulator.prior, simulator.observables, seed=options.seed), store, out / "fit", seed=options.seed
    )
    trained = clock("cpu") - started
    x = {k: v[None] for k, v in simulator.observe(SIMULATORS / "influenza_1978.csv").items()}
    said = fit.estimator.condition(x).log_probabilities("model").double()[0]
    started = clock("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = build_posterior(fit, simulator, ess=5_000, budget=200_000).draw(
            x, 20_000, generator=torch.Generator().manual_seed(options.seed)
        )
    spent = clock("cpu") - started
    found = evidence_by(draws, simulator.prior, "model")
    rows: list[dict[str, Any]] = [{"by": "network", "log BF": float(said[1] - said[0]), "s": trained}]
    factor = found["SEIR"] - found["SIR"]
    by_model = {f"log Z {name}": value for name, value in found.items()}
    efficiency = {"efficiency": draws.ess / len(draws)}
    rows = [{"by": "weights", **by_model, "log BF": factor, "s": spent, **efficiency}, *rows]
    started = clock("cpu")
    peer = {name: nested(simulator, name, x, 250 if options.quick else 500, options.seed) for name in found}
    theirs = peer["SEIR"][0] - peer["SIR"][0]
    by_model = {f"log Z {name}": value for name, (value, _) in peer.items()}
    error = math.hypot(peer["SIR"][1], peer["SEIR"][1])
    rows.append({"by": f"dynesty, +- {error:.2f}", **by_model, "log BF": theirs, "s": clock("cpu") - started})
    started = clock("cpu")
    plain = {name: by_prior(simulator, name, x, 200_000 if options.quick else 1_000_000) for name in found}
    by_model = {f"log Z {name}": value for name, value in plain.items()}
    rows.append(
        {"by": "draws of the prior", **by_model, "log BF": plain["SEIR"] - plain["SIR"], "s": clock("cpu") - started}
    )
    bound = 0.3 if not options.quick else 0.6
    return rows, [
        check("epidemics: log Bayes factor, weights against dynesty", abs(factor - theirs), bound),
        *[check(f"epidemics: log Z {n}, against dynesty", abs(found[n] - peer[n][0]), bound) for n in found],
        *[check(f"epidemics: log Z {n}, against draws of the prior", abs(found[n] - plain[n]), bound) for n in found],
    ]


def by_prior(simulator: Any, name: str, x: dict[str, torch.Tensor], draws: int) -> float:
    """log Z of one model as the mean of its likelihood over draws of its prior."""
    model = simulator.simulators[name]
    theta = model.prior.sample(draws, generator=torch.Generator().manual_seed(0))
    return float(model.log_likelihood(theta, x).double().logsumexp(0)) - math.log(draws)


def nested(simulator: Any, name: str, x: dict[str, torch.Tensor], live: int, seed: int) -> tuple[float, float]:
    """log Z of one model and its error, by dynesty, with the model's own prior and likelihood."""
    import jax
    from scipy import stats

    model = simulator.simulators[name]
    data = {k: v[0].numpy() for k, v in x.items()}
    positive = {"beta": (2.0, 1.0), "gamma": (0.4, 0.5)}
    laws: list[Any] = []
    for parameter in model.prior.names:
        if parameter in positive:
            mean, sd = positive[parameter]
            laws.append(stats.truncnorm(-mean / sd, np.inf, mean, sd))
        else:
            laws.append(stats.expon(scale=0.2) if parameter == "phi_inv" else stats.lognorm(0.7))
    with precision(True):
        one = jax.jit(lambda values: model.log_likelihood.sites.log_likelihood(values, data))

        def function(theta: np.ndarray) -> float:
            found = float(one(dict(zip(model.prior.names, theta, strict=True))))
            return found if math.isfinite(found) else -1e300

        return log_evidence(
            function,
            lambda u: np.array([law.ppf(p) for law, p in zip(laws, u, strict=True)]),
            len(laws),
            live=live,
            seed=seed,
            rest=0.05,
        )
