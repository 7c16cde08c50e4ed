"""Methods text: a paragraph on what was done, for the start of a methods section, with the papers to cite."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sciinf.core.files import read_json
from sciinf.core.simulator import BARE, SURROGATE
from sciinf.interfaces.figures.run_folder import Run
from sciinf.interfaces.figures.verdicts import verdict_of

_TRUNCATED = "truncated prior"  # Name that `infer_sequentially` gives to the distribution of its rounds.
PAPERS: Mapping[str, str] = {
    "npe": "Papamakarios & Murray (2016), Fast ε-free inference of simulation models with Bayesian conditional density "
    "estimation, https://arxiv.org/abs/1605.06376",
    "amortised": "Greenberg, Nonnenmacher & Macke (2019), Automatic posterior transformation for likelihood-free "
    "inference, https://arxiv.org/abs/1905.07488",
    "spline": "Durkan, Bekasov, Murray & Papamakarios (2019), Neural spline flows, https://arxiv.org/abs/1906.04032",
    "masked": "Germain, Gregor, Murray & Larochelle (2015), MADE: masked autoencoder for distribution estimation, "
    "https://arxiv.org/abs/1502.03509",
    "maf": "Papamakarios, Pavlakou & Murray (2017), Masked autoregressive flow for density estimation, "
    "https://arxiv.org/abs/1705.07057",
    "ffjord": "Grathwohl, Chen, Bettencourt, Sutskever & Duvenaud (2019), FFJORD: free-form continuous dynamics for "
    "scalable reversible generative models, https://arxiv.org/abs/1810.01367",
    "solver": "Pal, Ma, Shah & Rackauckas (2021), Opening the blackbox: accelerating neural differential equations by "
    "regularizing internal solver heuristics, https://arxiv.org/abs/2105.03918",
    "local solver": "Pal, Edelman & Rackauckas (2023), Locally regularized neural differential equations: some black "
    "boxes were meant to remain closed!, https://arxiv.org/abs/2303.02262",
    "residual": "Chen, Behrmann, Duvenaud & Jacobsen (2019), Residual flows for invertible generative modeling, "
    "https://arxiv.org/abs/1906.02735",
    "invertible": "Behrmann, Grathwohl, Chen, Duvenaud & Jacobsen (2019), Invertible residual networks, "
    "https://arxiv.org/abs/1811.00995",
    "tarflow": "Zhai et al. (2024), Normalizing flows are capable generative models, https://arxiv.org/abs/2412.06329",
    "tweedie": "Efron (2011), Tweedie's formula and selection bias, https://doi.org/10.1198/jasa.2011.tm11181",
    "tails": "Laszkiewicz, Lederer & Fischer (2022), Marginal tail-adaptive normalizing flows, "
    "https://arxiv.org/abs/2206.10311",
    "lipschitz tails": "Jaini, Kobyzev, Yu & Brubaker (2020), Tails of Lipschitz triangular flows, "
    "https://arxiv.org/abs/1907.04481",
    "perturbed": "Chae, Kim, Kim & Lin (2023), A likelihood approach to nonparametric estimation of a singular "
    "distribution using deep generative models, https://arxiv.org/abs/2105.04046",
    "softflow": "Kim, Lee, Lee, Kang & Kim (2020), SoftFlow: probabilistic framework for normalizing flow on "
    "manifolds, https://arxiv.org/abs/2006.04604",
    "score": "Sharrock et al. (2024), Sequential neural score estimation: likelihood-free inference with conditional "
    "score based diffusion models, https://arxiv.org/abs/2210.04872",
    "fokker-planck": "Deveney et al. (2023), Closing the ODE-SDE gap in score-based diffusion models through the "
    "Fokker-Planck equation, https://arxiv.org/abs/2311.15996",
    "guidance": "Ho & Salimans (2022), Classifier-free diffusion guidance, https://arxiv.org/abs/2207.12598",
    "preserving": "Karras et al. (2024), Analyzing and improving the training dynamics of diffusion models, "
    "https://arxiv.org/abs/2312.02696",
    "learned diffusion": "Singhal et al. (2023), Where to diffuse, how to diffuse, and how to get back: automated "
    "learning for multivariate diffusions, https://arxiv.org/abs/2302.07261",
    "matching": "Wildberger et al. (2023), Flow matching for scalable simulation-based inference, "
    "https://arxiv.org/abs/2305.17161",
    "joint": "Gloeckler et al. (2024), All-in-one simulation-based inference, https://arxiv.org/abs/2404.09636",
    "noise levels": "Kim et al. (2024), A versatile diffusion transformer with mixture of noise levels for "
    "audiovisual generation, https://arxiv.org/abs/2405.13762",
    "ratio": "Miller, Weniger & Forre (2022), Contrastive neural ratio estimation, https://arxiv.org/abs/2210.06170",
    "likelihood": "Papamakarios, Sterratt & Murray (2019), Sequential neural likelihood: fast likelihood-free "
    "inference with autoregressive flows, https://arxiv.org/abs/1805.07226",
    "poses": "Dax et al. (2022), Group equivariant neural posterior estimation, https://arxiv.org/abs/2111.13139",
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

FLOWS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "SplineCoupling": ("neural spline flow", ("spline",)),
    "CouplingNSF": ("neural spline flow", ("spline",)),
    "Coupling": ("neural spline flow", ("spline",)),
    "NSF": ("autoregressive neural spline flow", ("spline", "maf")),
    "SplineAutoregressive": ("autoregressive neural spline flow", ("spline", "masked")),
    "MAF": ("masked autoregressive flow", ("maf",)),
    "Continuous": ("continuous normalizing flow", ("ffjord",)),
    "Residual": ("residual flow", ("residual", "invertible")),
    "TransformerAutoregressive": ("autoregressive transformer flow", ("tarflow", "maf")),
    "StudentT": ("Student-t noise", ("tails", "lipschitz tails")),
    "Perturbed": ("noise that is added and removed", ("perturbed", "softflow")),
}
"""Class of a flow -> what it is called, and the papers behind it."""

ESTIMATORS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "Score": ("score", {"consistency": "fokker-planck", "dropped": "guidance", "preserving": "preserving"}),
    "AuxiliaryScore": ("learned diffusion", {}),
    "Matching": ("matching", {}),
    "Joint": ("joint", {"noisy": "noise levels"}),
    "Ratio": ("ratio", {}),
    "Likelihood": ("likelihood", {}),
    "Elements": ("likelihood", {}),
    "GNPE": ("poses", {}),
}
"""Class of an estimator that is no flow -> the paper behind it, and those behind its options where they are on."""


@dataclass(frozen=True)
class Paper:
    """Reference to cite: its BibTeX key, and its authors, year, title and link in one line."""

    key: str
    words: str


def bibtex(papers: Sequence[Paper]) -> str:
    """BibTeX entries of papers."""
    return "\n".join(_entry(paper) for paper in papers)


def _entry(paper: Paper) -> str:
    found = re.fullmatch(r"(?P<authors>.+?) \((?P<year>\d{4})\), (?P<title>.+), (?P<url>https://\S+)", paper.words)
    if found is None:  # Only software has no year.
        authors, _, title = paper.words.partition(", ")
        return f"@misc{{{paper.key},\n  author = {{{{{authors}}}}},\n  title = {{{{{title}}}}}\n}}\n"
    names = found["authors"].replace(" et al.", " and others").replace(" & ", " and ").replace(", ", " and ")
    fields = {"author": names, "title": f"{{{found['title']}}}", "year": found["year"], "url": found["url"]}
    inside = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{paper.key},\n{inside}\n}}\n"


def methods_text(run: Run) -> tuple[str, list[Paper]]:
    """Paragraph for a methods section, as plain text, and the papers behind the methods that it names."""
    parts = [_simulations(run), (_surrogate(run), []), _fit(run), _calibration(run), _answer(run)]
    keys = [key for _, found in parts for key in found]
    version = run.provenance.get("versions", run.fit.get("versions", {})).get("sciinf", "")
    text = " ".join(sentence for sentence, _ in parts if sentence)
    own = (
        f"The sciinf authors, sciinf{f' {version}' if version else ''}: amortized simulation-based inference (software)"
    )
    return text, [Paper("sciinf", own), *(Paper(key.replace(" ", "-"), PAPERS[key]) for key in dict.fromkeys(keys))]


def _simulations(run: Run) -> tuple[str, list[str]]:
    store = run.stores.get("simulations")
    if store is None:
        found = run.fit.get("store") or {}
        rows = found.get("rows")
        if not rows:
            return "", []
        online = f"{rows:,} simulations of {run.name}, made while the network was trained and not kept, were used."
        return (online if found.get("online") else f"{rows:,} simulations of {run.name} were used."), []
    names = run.prior.names if run.prior else ()
    what = f"its parameter {names[0]}" if len(names) == 1 else f"its {len(names)} parameters"
    kind = _proposal(run) if store.proposed else None
    truncated = kind == _TRUNCATED
    law = "the prior" if kind is None else "a proposal in place of the prior" + (f" ({kind})" if kind else "")
    law = "the prior truncated to where earlier rounds put the posterior of the observation" if truncated else law
    text = f"The simulator {run.name} was run {store.rows:,} times (seed {store.seed}), with {what} drawn from {law}"
    failed = f"; {store.failed:,} simulations failed and were left out" if store.failed else ""
    return f"{text}{failed}.", ["truncated"] if truncated else []


def _surrogate(run: Run) -> str:
    """Sentence on the surrogate that made the training data; "" if no surrogate made them."""
    recorded = run.fit.get("simulator") or {}
    surrogate = recorded.get(SURROGATE) or recorded.get(BARE)
    return f"Its data were made by a surrogate: {surrogate}." if surrogate else ""


def _proposal(run: Run) -> str | None:
    """Kind of distribution that the training simulations were drawn from.

    The kind is None for the prior, and "" if it was not recorded.
    """
    said = (run.fit.get("store") or {}).get("proposal")
    if not said:
        try:
            said = read_json(run.folder / "simulations" / "store.json").get("proposal")
        except (OSError, ValueError, AttributeError):
            said = None
    return str(said.get("kind", "")) if isinstance(said, Mapping) else None


def _fit(run: Run) -> tuple[str, list[str]]:
    if not run.fit:
        return "", []
    built = run.fit.get("estimator", {})
    kind, seed = _class(built), run.fit.get("seed")
    parts = [f"{epochs(run):,} epochs" if epochs(run) else "", f"seed {seed}" if seed is not None else ""]
    about = ", ".join(part for part in parts if part)
    if kind != "Flow":
        paper, options = ESTIMATORS.get(kind, ("", {}))
        told = {name: value for name, value in (built.get("arguments") or {}).items() if value and name in options}
        said = "".join(f", {name}={value}" for name, value in told.items())
        text = f"The estimator {kind}{said} was trained on them{f' ({about})' if about else ''}."
        return text, [key for key in (paper, *(options[name] for name in told)) if key]
    words, called, papers = _flow((built.get("arguments") or {}).get("flow") or {})
    aim = "to approximate the posterior for every observation at once"
    if (law := _proposal(run)) is not None:
        aim = "to approximate the posterior that holds if the law that they were drawn from is taken for the prior"
        if law == _TRUNCATED:
            aim = "to approximate the posterior of the observation, up to its mass outside their region"
    averaged = str(run.fit.get("average") or "").startswith("average")
    kept = "the average of the weights along the training" if averaged else "the weights"
    text = (
        f"A conditional {words} ({called}) was trained on them {aim} (neural posterior estimation"
        f"{f'; {about}' if about else ''}), and {kept} with the best loss on held-out simulations kept."
    )
    return text, ["npe", "amortised", *papers]


def _flow(built: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """Name of a flow in words, its class names, and the papers on this flow and on the flow inside it."""
    name, arguments = _class(built) or "SplineCoupling", built.get("arguments") or {}
    words, known = FLOWS.get(name, ("normalizing flow", ()))
    papers = list(known)
    if name == "TransformerAutoregressive":
        papers += ["spline"] if arguments.get("bins", 1) else []
        papers += ["tweedie"] if arguments.get("denoise") else []
    if name == "Continuous" and arguments.get("penalty", 1):
        papers += ["solver", "local solver"] if arguments.get("penalised", "local") == "local" else ["solver"]
    inner = arguments.get("flow")
    if not isinstance(inner, Mapping) or "$class" not in inner:
        return words, name, papers
    within, called, more = _flow(inner)
    return f"{within} with {words}", f"{name} of {called}", [*papers, *more]


def epochs(run: Run) -> int:
    """Number of epochs of the training; the history has one row for each validation, not for each epoch."""
    if len(run.history):
        return int(run.history["epoch"][-1]) + 1
    history = run.fit.get("history") or ()
    return int(history[-1]["epoch"]) + 1 if history else 0


_CHECKS = {
    "passed": "the checks were passed.",
    "not passed": "the checks were not passed ({}).",
    "cannot tell": "these were too few to tell ({}).",
}


def _calibration(run: Run) -> tuple[str, list[str]]:
    found = run.calibration
    if found is None:
        return "The posterior was not checked on fresh simulations.", []
    density = len(found.coverage) > 0
    checks = "ranks of the true parameters" + (", expected coverage of highest-density regions" if density else "")
    text = (
        f"The {found.of} posterior was checked on {found.rows:,} fresh simulations with {found.draws:,} draws each by "
        f"{checks} and TARP; " + _CHECKS[found.state].format("; ".join(found.reasons))
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
        by, likelihood = weighted_by(str(answer.get("posterior") or ""))
        text = f"For the observation, draws of the trained posterior were weighted by {by}: {size}"
        text += f" with an effective sample size of {ess:,.0f}" if ess else ""
        evidence, error = answer.get("log_evidence"), answer.get("log_evidence_error")
        if evidence is not None:
            text += f", log evidence {evidence:.2f}" + (f" ± {error:.2f}" if error is not None else "")
        text = f"{text.replace('-', '−') if evidence is not None and evidence < 0 else text}."
        keys += ["neural weights"] if likelihood else []
        keys += ["weights"] if answer.get("pareto_k") is not None else []
    elif answer.get("posterior") == "refined":
        text = (
            "The network was trained on rounds of simulations from normal laws around the answer of a network of the "
            f"whole prior. The answer for the observation rests on {size} of it, weighted by the prior's density over "
            "the laws'"
        )
        scope = str(answer.get("scope") or "")
        how = "item by item" if "item by item" in scope else "number by number"
        text += f", and by a power of a likelihood that was learned {how}." if "likelihood" in scope else "."
    else:
        text = f"The answer for the observation rests on {size} of the trained posterior."
    text += f" Verdict of sciinf: {verdict_of(run).sentence}"
    p = (answer.get("trust") or {}).get("p_value")
    if p is not None:
        text += f" The observation was compared with fresh simulations in data and summary space (p = {p:.2g})."
        keys.append("trust")
    return text, keys


def weighted_by(posterior: str) -> tuple[str, bool]:
    """Words on what the draws were weighted by, from a posterior's name, and whether a likelihood was among it."""
    success = "the probability that a simulation with these parameters succeeds, as a classifier has it"
    success = f"one over {success}" if "1 / P(success)" in posterior else success
    if "P(success)" not in posterior:
        return "the simulator's likelihood", True
    likelihood = "reweighted by the likelihood" in posterior
    return f"the simulator's likelihood and {success}" if likelihood else success, likelihood


def _class(built: Mapping[str, Any]) -> str:
    return str(built.get("$class", "")).rpartition(".")[2]
