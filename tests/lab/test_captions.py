"""Captions: what they say is true of what they were written for, is read back, and leaves the prior within it."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf import LogUniform, Normal, Ordered, Uniform
from sciinf.core import Prior
from sciinf.lab import Grammar
from sciinf.lab._wording import numbers
from sciinf.lab.captions import LEVELS, TEMPLATES, Captions
from sciinf.lab.writing import Writer

PRIORS = {
    "a flow": Prior(viscosity=(LogUniform(4e-4, 4e-3), "m2/s"), strength=Uniform(0.05, 0.15)),
    "signs, tiny and huge numbers": Prior(
        offset=Normal(0.0, 1.0), charge=(LogUniform(1e-22, 1e-18), "C"), count=(LogUniform(1e4, 1e9), "1/h")
    ),
    "many digits": Prior(t0=(Uniform(1126259462.3, 1126259462.5), "s"), depth=(Uniform(5000.0, 5010.0), "m")),
    "a joint law": Prior.joint(("first", "second"), Ordered(Uniform(0.0, 1.0), 2), "s") + Prior(rate=Uniform(-3, -1)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def captions_of(prior, **told):
    return Grammar({prior.names[0]: ["main knob", "handle"]}, "flow", **told).build(prior)


def holds(said, theta, names):
    """Whether parameters lie within what is said, but for the rounding of a float."""
    ends = [said.get(name, (-math.inf, math.inf)) for name in names]
    return all(
        low - 1e-12 * abs(t) <= t <= high + 1e-12 * abs(t) for (low, high), t in zip(ends, theta.tolist(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_what_a_caption_says_is_true_and_is_read_back(name):
    prior = PRIORS[name]
    captions, draw = captions_of(prior), generator()
    writer, theta = Writer(captions), prior.sample(200, generator=draw)
    written = writer.anew(theta, generator=draw)
    texts = captions.text(written.ids)
    assert torch.equal(captions.encode(texts, writer.length), written.ids)
    said = [captions.read(text) for text in texts]
    assert all(holds(one, row, prior.names) for one, row in zip(said, theta, strict=True))
    wrong = sum(not holds(one, row, prior.names) for one, row in zip(said, theta.roll(1, 0), strict=True))
    assert wrong > 100
    for side, scores in enumerate((written.low, written.high)):
        ends = [[one.get(n, (-math.inf, math.inf))[side] for n in prior.names] for one in said]
        assert torch.allclose(writer.score(torch.tensor(ends, dtype=torch.float64)).float(), scores, atol=1e-4)


@pytest.mark.parametrize(
    ("number", "low", "high"),
    [
        ("0.0012", 0.00115, 0.00125),
        ("1.2e-3", 0.00115, 0.00125),
        ("1.2E-03", 0.00115, 0.00125),
        ("+12e-4", 0.00115, 0.00125),
        ("0.0010", 0.000995, 0.00105),
        ("-0.25", -0.255, -0.245),
        ("3", 2.5, 3.5),
        ("0.0", -0.05, 0.05),
        ("123456.7", 123456.65, 123456.75),
        (".5", 0.45, 0.55),
        ("-.25e1", -2.55, -2.45),
        ("5.", 4.5, 5.5),
        ("1e-1", 0.095, 0.15),
    ],
)
def test_numbers_say_what_rounds_to_them(number, low, high):
    captions = Grammar().build(Prior(rate=Normal(0.0, 1.0)))
    assert captions.read(f"a solution with a rate of {number}.")["rate"] == pytest.approx((low, high))
    below, above, spelt = numbers(captions.encode([f"rate {number}"]))
    assert (float(below[spelt][0]), float(above[spelt][0])) == pytest.approx((low, high))


@pytest.mark.slow
def test_what_is_left_of_the_prior_is_all_that_a_caption_says():
    """Parameters whose captions say the same are distributed as the prior within it, whatever else they say.

    Each of five comparisons fails by chance once in ten thousand times.
    """
    from scipy.stats import kstest

    prior = PRIORS["a flow"]
    captions, draw = captions_of(prior), generator(3)
    theta = prior.sample(4_000, generator=draw)
    said = [captions.read(text) for text in captions.text(Writer(captions).anew(theta, generator=draw).ids)]
    edges = [-math.inf, *captions.edges[0].tolist(), math.inf]
    for level in range(5):
        where = (edges[level], edges[level + 1])
        found = theta[[one.get("viscosity") == where for one in said], 0]
        assert len(found) > 100
        drawn = captions.drawn(f"{LEVELS[level]} viscosity", 4_000, generator=draw)
        assert float(kstest(found.numpy(), drawn[:, 0].numpy()).pvalue) > 1e-4
        share = (prior.bijection.forward(drawn.double())[:, 0] / math.sqrt(2)).erf() / 2 + 0.5
        assert float(kstest(5 * share.numpy() - level, "uniform").pvalue) > 1e-4
        assert abs(float(drawn[:, 1].mean()) - 0.1) < 0.003


def test_joint_laws_are_drawn_within_what_is_said():
    captions, draw = captions_of(PRIORS["a joint law"]), generator()
    found = captions.drawn("very high first, rate that is low", 50, generator=draw)
    assert found.shape == (50, 3)
    assert bool((found[:, 0] >= captions.edges[0, 3]).all())
    assert bool((found[:, 1] > found[:, 0]).all())
    assert bool(((found[:, 2] >= captions.edges[2, 0]) & (found[:, 2] < captions.edges[2, 1])).all())
    with pytest.raises(ValueError, match="too improbable by the prior"):
        captions.drawn("second 0.1, first 0.9", 5, generator=draw)


def test_the_same_in_other_words():
    captions = captions_of(PRIORS["a flow"])
    for text in (
        "A flow of very low viscosity!",
        "the flow with an handle that is very low",
        "show flow with very low values of the main knob",
        "very low viscosity",
    ):
        assert captions.read(text) == {"viscosity": (-math.inf, float(captions.edges[0, 0]))}
    both = captions.read("flow with very low viscosity (0.00045 m2/s) and high strength")
    assert both["viscosity"] == pytest.approx((0.000445, 0.000455))
    assert both["strength"] == pytest.approx((0.11, 0.13))
    assert captions.read("any flow") == {}
    first, second = (Writer(captions).anew(torch.full((1, 2), 1e-3), generator=generator(s)).ids for s in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "a flow of hihg viscosity",
            "the word 'hihg' of the caption 'a flow of hihg viscosity' is unknown; near .* high",
        ),
        ("flow of low density", "'density' .* is unknown"),
        ("viscosity 0.001 kg", "after numbers m2/s"),
        ("strength 0.1 m2/s", "'strength' is in no unit"),
        ("low viscosity and high viscosity", "contradicts itself about 'viscosity'"),
        ("low viscosity (3.9e-3)", "contradicts itself"),
        ("viscosity high strength low", "no template for 'viscosity high strength low'"),
        ("flow with strength 0.1 0.2", "two numbers stand side by side"),
        (" . ", "says nothing"),
        ("viscosity 1.2.3", "'1' of the caption|'1.2.3'"),
        ("viscosity 1e400", "the number 1e400 .* is too large"),
        ("viscosity 1e-400", "the number 1e-400 .* is too large, too small"),
    ],
)
def test_what_cannot_be_read_is_said(text, says):
    with pytest.raises(ValueError, match=says):
        captions_of(PRIORS["a flow"]).read(text)


@pytest.mark.parametrize("name", ["e", "a", "low_mass", "high", "M"])
def test_phrases_stand_in_place_of_a_name_that_cannot_be_said(name):
    prior = Prior(mass=Uniform(0.0, 3.0), m=Uniform(0.0, 1.0)) + Prior.of_laws([name], [""], [Uniform(0.0, 1.0)])
    with pytest.raises(ValueError, match="give .*phrases"):
        Grammar({"m": ["minor part"]} if name != "M" else {}).build(prior)
    captions = Grammar({"m": ["minor part"], name: ["major part"]}).build(prior)
    assert isinstance(Writer(captions), Writer)
    assert captions.names[2] == [["major", "part"]]
    assert captions.read("mass 1.5e-1") == {"mass": pytest.approx((0.145, 0.155))}
    assert captions.read("very high major part") == {name: (pytest.approx(0.8), math.inf)}


def test_capitals_and_articles_of_a_grammar_are_those_of_captions():
    templates = ["Let the {name} be {level}", "the {name} at {number}"]
    captions = Grammar({"rate": ["The Growth"]}, "a DNA Walk", templates=templates).build(Prior(rate=Uniform(0.0, 1.0)))
    written = Writer(captions).anew(torch.rand(50, 1, generator=generator()), generator=generator())
    assert torch.equal(captions.encode(captions.text(written.ids), written.ids.shape[1]), written.ids)
    assert captions.read("the DNA walk with growth at 0.5") == {"rate": pytest.approx((0.45, 0.55))}
    assert captions.read("let growth be very low") == captions.read("Let a rate be very low")


@pytest.mark.parametrize("name", PRIORS)
def test_what_the_prior_has_not_is_refused(name):
    prior = PRIORS[name]
    captions = captions_of(prior)
    for k, one in enumerate(prior.names):
        value = float(prior.sample(1, generator=generator())[0, k])
        captions.check_possible("", {one: (value - 1e-6 * abs(value), value)})
        far = 30 * float(captions.ends[k].abs().max())
        for ends in ((far, 2 * far), (-2 * far, -far)):
            with pytest.raises(ValueError, match=f"impossible by the prior, by which '{one}' is from"):
                captions.check_possible("", {one: ends})


def test_grammars_that_cannot_be_read_are_refused():
    prior = PRIORS["a flow"]
    for make, says in (
        (lambda: Grammar({"thickness": ["x"]}).build(prior), "phrases are given for"),
        (lambda: Grammar({"viscosity": ["strength"]}).build(prior), "more than one parameter"),
        (lambda: Grammar({"viscosity": ["low friction"]}).build(prior), "has a word of levels"),
        (lambda: Grammar({"viscosity": "thickness"}), r"takes a list: \['thickness'\]"),
        (lambda: Grammar(templates="{name} {number}"), "'templates' is given one text"),
        (lambda: Grammar({"viscosity": ["knob 1"]}), "has '1', but beside numbers"),
        (lambda: Grammar(subject="e field"), "'e', a part of numbers"),
        (lambda: Grammar(subject="The"), "has no words"),
        (lambda: Writer(Grammar(subject="viscosity").build(prior)), "would write 'viscosity .* no template for"),
        (lambda: Writer(Grammar({"viscosity": ["strength of"]}).build(prior)), "would write"),
        (lambda: Grammar(templates=["{name}"]), "a template has"),
        (lambda: Grammar(templates=["{level}"]), "a template has"),
        (lambda: Grammar(digits=(9,)), "digits are ints from 1 to 6"),
        (lambda: Grammar(left_out=1.0), "left_out"),
        (lambda: Grammar().build(Prior.none()), "this prior has none"),
        (lambda: Writer(Grammar(digits=(6,)).build(Prior(t=Uniform(1e11, 1e11 + 10)))), "digit"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    assert isinstance(Grammar(templates=TEMPLATES[:2]).build(prior), Captions)
