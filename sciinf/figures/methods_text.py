"""What was done, in a paragraph to start a methods section from, with the papers to cite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sciinf.figures.run_folder import Run

PAPERS: Mapping[str, str] = {
    "npe": "Papamakarios & Murray (2016), Fast ε-free inference of simulation models with Bayesian conditional density "
    "estimation, https://arxiv.org/abs/1605.06376",
    "amortised": "Greenberg, Nonnenmacher & Macke (2019), Automatic posterior transformation for likelihood-free "
    "inference, https://arxiv.org/abs/1905.07488",
    "spline": "Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, https://arxiv.org/abs/1906.04032",
    "weights": "Vehtari, Simpson, Gelman, Yao & Gabry (2024), Pareto smoothed importance sampling, "
    "https://arxiv.org/abs/1507.02646",
    "neural weights": "Dax et al. (2023), Neural importance sampling for rapid and reliable gravitational-wave "
    "inference, https://arxiv.org/abs/2210.05686",
    "sbc": "Talts, Betancourt, Simpson, Vehtari & Gelman (2018), Validating Bayesian inference algorithms with "
    "simulation-based calibration, https://arxiv.org/abs/1804.06788",
    "coverage": "Hermans et al. (2022), A trust crisis in simulation-based inference? Your posterior approximations "
    "can be unfaithful, https://arxiv.org/abs/2110.06581",
    "tarp": "Lemos, Coogan, Hezaveh & Perreault-Levasseur (2023), Sampling-based accuracy testing of posterior "
    "estimators for general inference, https://arxiv.org/abs/2302.03026",
    "band": "Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity and its applications in "
    "goodness-of-fit evaluation and multiple sample comparison, https://arxiv.org/abs/2103.10522",
    "truncated": "Deistler, Goncalves & Macke (2022), Truncated proposals for scalable and hassle-free "
    "simulation-based inference, https://arxiv.org/abs/2210.04815",
    "trust": "Schmitt, Bürkner, Köthe & Radev (2022), Detecting model misspecification in amortized Bayesian inference "
    "with neural networks, https://arxiv.org/abs/2112.08866",
}


def methods_text(run: Run) -> tuple[str, list[str]]:
    """The paragraph, plain text, and the papers behind what it names."""
    parts = [_simulations(run), _fit(run), _calibration(run), _answer(run)]
    keys = [key for _, found in parts for key in found]
    version = run.provenance.get("versions", run.fit.get("versions", {})).get("sciinf", "")
    text = " ".join(sentence for sentence, _ in parts if sentence)
    own = (
        f"The sciinf authors, sciinf{f' {version}' if version else ''}: amortized simulation-based inference (software)"
    )
    return text, [own, *(PAPERS[key] for key in dict.fromkeys(keys))]


def _simulations(run: Run) -> tuple[str, list[str]]:
    store = run.stores.get("simulations")
    if store is None:
        rows = run.fit.get("store", {}).get("rows")
        return (f"{rows:,} simulations of {run.name} were used." if rows else ""), []
    names = run.prior.names if run.prior else ()
    what = f"its parameter {names[0]}" if len(names) == 1 else f"its {len(names)} parameters"
    law = "a proposal made for the observation" if store.proposed else "the prior"
    text = f"The simulator {run.name} was run {store.rows:,} times (seed {store.seed}), with {what} drawn from {law}"
    failed = f"; {store.failed:,} simulations failed and were left out" if store.failed else ""
    return f"{text}{failed}.", ["truncated"] if store.proposed else []


def _fit(run: Run) -> tuple[str, list[str]]:
    if not run.fit:
        return "", []
    built = run.fit.get("estimator", {})
    kind = _class(built)
    epochs, seed = len(run.fit.get("history", ())), run.fit.get("seed")
    about = ", ".join([f"{epochs} epochs" if epochs else "", f"seed {seed}" if seed is not None else ""]).strip(", ")
    if kind != "Flow":
        return f"The estimator {kind} was trained on them{f' ({about})' if about else ''}.", []
    flow = _class((built.get("arguments") or {}).get("flow") or {}) or "SplineCoupling"
    spline = "NSF" in flow or flow in ("Coupling", "SplineCoupling")
    kind, about = "neural spline" if spline else "normalizing", f"; {about}" if about else ""
    text = (
        f"A conditional {kind} flow ({flow}) was trained on them to approximate the posterior for every observation at "
        f"once (neural posterior estimation{about}), and the weights with the best loss on held-out simulations kept."
    )
    return text, ["npe", "amortised", *(["spline"] if spline else [])]


def _calibration(run: Run) -> tuple[str, list[str]]:
    found = run.calibration
    if found is None:
        return "The posterior was not checked on fresh simulations.", []
    density = len(found.coverage) > 0
    checks = "ranks of the true parameters" + (", expected coverage of highest-density regions" if density else "")
    text = (
        f"The {found.of} posterior was checked on {found.rows:,} fresh simulations with {found.draws:,} draws each by "
        f"{checks} and TARP; "
        + ("the checks were passed." if found.passed else f"the checks were not passed ({'; '.join(found.reasons)}).")
    )
    return text, ["sbc", *(["coverage"] if density else []), "tarp", "band"]


def _answer(run: Run) -> tuple[str, list[str]]:
    answer = run.answer
    if not answer:
        return "", []
    count, ess = answer.get("draws"), answer.get("ess")
    size = f"{count:,} draws" if count else "draws"
    keys: list[str] = []
    if answer.get("amortised"):
        text = (
            f"For the observation, draws of the trained posterior were weighted by the simulator's likelihood: {size}"
        )
        text += f" with an effective sample size of {ess:,.0f}" if ess else ""
        evidence, error = answer.get("log_evidence"), answer.get("log_evidence_error")
        if evidence is not None:
            text += f", log evidence {evidence:.2f}" + (f" ± {error:.2f}" if error is not None else "")
        text, keys = f"{text.replace('-', '−') if evidence is not None and evidence < 0 else text}.", ["neural weights"]
        keys += ["weights"] if answer.get("pareto_k") is not None else []
    else:
        text = f"The answer for the observation rests on {size} of the trained posterior."
    p = (answer.get("trust") or {}).get("p_value")
    if p is not None:
        text += f" The observation was compared with fresh simulations in data and summary space (p = {p:.2g})."
        keys.append("trust")
    return text, keys


def _class(built: Mapping[str, Any]) -> str:
    return str(built.get("$class", "")).rpartition(".")[2]
