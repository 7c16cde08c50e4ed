"""The methods paragraph says what was done, and nothing that was not."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sciinf.networks.flows
from sciinf.core.component import to_json
from sciinf.interfaces.figures.methods_text import ESTIMATORS, FLOWS, PAPERS, Paper, bibtex, epochs, methods_text
from sciinf.interfaces.figures.run_folder import Run
from sciinf.networks.flows.conditional import Architecture
from sciinf.networks.flows.continuous import Continuous
from sciinf.networks.flows.heavy_tails import StudentT
from sciinf.networks.flows.perturbed import Perturbed
from sciinf.networks.flows.residual import Residual
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.spline_autoregressive import SplineAutoregressive
from sciinf.networks.flows.transformer import TransformerAutoregressive
from sciinf.networks.flows.zuko_flows import MAF, NSF


def text_of(**answer: Any) -> str:
    return methods_text(Run(Path("run"), answer, None, (), None, {}, {}, {}, {}, {}))[0]


@pytest.mark.parametrize("posterior", ["amortised", "ensemble of 3", "not reweighted"])
def test_only_an_answer_with_a_correction_was_corrected(posterior):
    """What tells is the estimates before it, not the posterior's name."""
    plain = text_of(draws=1000, ess=1000.0, posterior=posterior)
    assert "rests on 1,000 draws of the trained posterior" in plain
    assert "likelihood" not in plain
    corrected = text_of(draws=1000, ess=400.0, posterior=posterior, amortised={"a": {"mean": 0.0}})
    assert "weighted by the simulator's likelihood: 1,000 draws with an effective sample size of 400" in corrected


@pytest.mark.parametrize("learned", [True, False])
def test_a_refined_answer_rests_on_rounds_and_weights(learned):
    """It was said to rest on draws of the trained posterior, under a law that is not the prior."""
    scope = "it holds for data near it" + "; its draws are weighted by a likelihood" * learned
    told = text_of(draws=1000, ess=1000.0, posterior="refined", scope=scope)
    assert "rests on 1,000 draws of it, weighted by the prior's density over the laws'" in told
    assert ("by a power of a likelihood that was learned number by number" in told) == learned


def test_weights_other_than_the_likelihood_are_called_by_their_name():
    raw = {"a": {"mean": 0.0}}
    success = "the probability that a simulation with these parameters succeeds, as a classifier has it"
    modelled = text_of(draws=1000, posterior="amortised, weighted by 1 / P(success)", amortised=raw)
    assert f"weighted by one over {success}: 1,000 draws" in modelled
    assert "likelihood" not in modelled
    name = "amortised, reweighted by the likelihood, weighted by P(success)"
    assert f"weighted by the simulator's likelihood and {success}" in text_of(draws=1000, posterior=name, amortised=raw)


def run_of(flow: Architecture | None = None, history: Any = None, folder: Path | None = None, **record: Any) -> Run:
    built = {"$class": "sciinf.estimators.flow.Flow", "arguments": {"flow": to_json(flow)}}
    fit = {"estimator": built, "seed": 0, "simulator": {"name": "decay"}, **record}
    return Run(folder or Path("run"), {}, None, (), None, fit, history or {}, {}, {}, {})


@pytest.mark.parametrize(
    ("flow", "words", "links"),
    [
        (None, "conditional neural spline flow (SplineCoupling)", ("1906.04032",)),
        (SplineCoupling(), "conditional neural spline flow (SplineCoupling)", ("1906.04032",)),
        (NSF(), "autoregressive neural spline flow (NSF)", ("1906.04032", "1705.07057")),
        (SplineAutoregressive(), "autoregressive neural spline flow (SplineAuto", ("1906.04032", "1502.03509")),
        (MAF(), "masked autoregressive flow (MAF)", ("1705.07057",)),
        (Continuous(), "continuous normalizing flow", ("1810.01367", "2105.03918", "2303.02262")),
        (Continuous(penalty=0.0), "continuous normalizing flow", ("1810.01367",)),
        (Residual(), "residual flow (Residual)", ("1906.02735", "1811.00995")),
        (TransformerAutoregressive(), "autoregressive transformer", ("2412.06329", "1705.07057", "1906.04032")),
        (TransformerAutoregressive(bins=0), "autoregressive transformer", ("2412.06329", "1705.07057")),
        (
            TransformerAutoregressive(bins=0, noise=0.1, denoise=0.5),
            "autoregressive transformer",
            ("2412.06329", "1705.07057", "jasa.2011.tm11181"),
        ),
        (
            StudentT(NSF()),
            "autoregressive neural spline flow with Student-t noise (StudentT of NSF)",
            ("2206.10311", "1907.04481", "1906.04032", "1705.07057"),
        ),
        (
            Perturbed(StudentT(MAF())),
            "masked autoregressive flow with Student-t noise with noise that is added and removed (Perturbed of Stu",
            ("2105.04046", "2006.04604", "2206.10311", "1907.04481", "1705.07057"),
        ),
    ],
)
def test_a_flow_is_named_and_its_papers_are_cited(flow, words, links):
    text, papers = methods_text(run_of(flow))
    assert words in text
    assert [paper.words.rpartition("/")[2] for paper in papers[3:]] == list(links)


@pytest.mark.parametrize(
    ("kind", "arguments", "words", "links"),
    [
        ("score.Score", {"dropped": 0.0, "preserving": False}, "The estimator Score was", ["2210.04872"]),
        ("score.Score", {"dropped": 0.1}, "The estimator Score, dropped=0.1 was", ["2210.04872", "2207.12598"]),
        ("score.Score", {"consistency": 1.0, "preserving": True}, "", ["2210.04872", "2311.15996", "2312.02696"]),
        ("auxiliary_score.AuxiliaryScore", {}, "The estimator AuxiliaryScore was", ["2302.07261"]),
        ("joint.Joint", {"noisy": 0.3}, "The estimator Joint, noisy=0.3 was", ["2404.09636", "2405.13762"]),
        ("mine.Mine", {"noisy": 0.3}, "The estimator Mine was", []),
    ],
)
def test_an_estimator_and_its_options_are_told_and_cited(kind, arguments, words, links):
    built = {"$class": f"sciinf.training.estimators.{kind}", "arguments": arguments}
    text, papers = methods_text(run_of(estimator=built))
    assert words in text
    assert [paper.words.rpartition("/")[2] for paper in papers[1:]] == links


def unknown(flows: Any) -> set[str]:
    """Architectures in sciinf.networks.flows that a table leaves out."""
    modules = [
        importlib.import_module(f"sciinf.networks.flows.{m.name}")
        for m in pkgutil.iter_modules(sciinf.networks.flows.__path__)
    ]
    classes = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
    return {k.__name__ for k in classes if issubclass(k, Architecture) and not inspect.isabstract(k)} - set(flows)


def test_no_flow_is_without_words_and_papers():
    assert not unknown(FLOWS)
    assert {key for _, keys in FLOWS.values() for key in keys} <= set(PAPERS)
    assert unknown({k: v for k, v in FLOWS.items() if k != "Residual"}) == {"Residual"}  # planted fault
    assert {key for paper, options in ESTIMATORS.values() for key in (paper, *options.values())} <= set(PAPERS)


def test_only_what_was_learned_of_the_prior_is_of_every_observation():
    prior, by_hand, rounds = (
        methods_text(run_of(store={"rows": 100, **({"proposal": {"kind": kind}} if kind else {})}))
        for kind in (None, "by hand", "truncated prior")
    )
    assert "the posterior for every observation at once" in prior[0]
    assert "every observation" not in by_hand[0] + rounds[0]
    assert "if the law that they were drawn from is taken for the prior" in by_hand[0]
    assert "the posterior of the observation, up to its mass outside their region" in rounds[0]


def test_what_is_said_of_the_training_is_what_happened():
    """Validated every fourth epoch, on rows made meanwhile, with an average chosen afterwards."""
    history = {"epoch": np.array([3.0, 7.0, 11.0])}
    average = "average of relative width 0.1, up to epoch 12"
    text, _ = methods_text(run_of(None, history, store={"rows": 5000, "online": True}, average=average))
    assert "12 epochs, seed 0" in text
    assert "5,000 simulations of decay, made while the network was trained and not kept, were used" in text
    assert "the average of the weights along the training with the best loss on held-out simulations kept" in text
    assert "and the weights with the best loss" in methods_text(run_of(average="the last epoch that was better"))[0]
    assert epochs(run_of(None, history)) == 12
    recorded = {**run_of().fit, "history": [{"epoch": 3}, {"epoch": 7}]}
    assert epochs(Run(Path("run"), {}, None, (), None, recorded, {}, {}, {}, {})) == 8
    assert epochs(run_of()) == 0


def test_papers_are_entries_for_bibtex():
    papers = [Paper(key, words) for key, words in PAPERS.items()]
    entries = bibtex(papers).split("@misc{")[1:]
    assert len(entries) == len(PAPERS)
    for entry in entries:
        for name in ("author", "title", "year", "url"):
            assert f"  {name} = {{" in entry, entry
        assert entry.count("{") + 1 == entry.count("}")
    one = bibtex([Paper("sbc", PAPERS["sbc"])])
    assert "author = {Talts and Betancourt and Simpson and Vehtari and Gelman}" in one
    assert "year = {2018}" in one
    assert "Hermans and others" in bibtex([Paper("c", PAPERS["coverage"])])
