"""Generators that are told by words: reading, the law given a caption against the exact one, and the contract."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from sciinf import LogUniform, Recipe, Uniform, load_fit, simulate, train
from sciinf.core import Batch, Prior
from sciinf.emulators import Emulator, Frame, Generator, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import JointTokens, MixtureTokens, Patches
from sciinf.lab import Grammar, Words
from sciinf.lab.captions import TEMPLATES
from sciinf.lab.reader import Reader
from sciinf.lab.writing import Writer
from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.inverse import Measured
from sciinf.simulators.dynamics.field_equation import Equation, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.training import train_ensemble

NET, TIMES = TokenTransformer(32, 2, heads=2), (0.0, 1.0)
WAVE = torch.cos(2 * math.pi * torch.arange(8) / 8)
UNSEEN = "{name} being about {number}"
GRAMMAR = Grammar({"rate": ["growth"]}, "wave", templates=[one for one in TEMPLATES if one != UNSEEN])


class Growing(Equation):
    """A wave that grows at a rate, on a level, from a random start, and noise."""

    name, block, random = "growing", 200, True

    def __init__(self):
        self.grid, self.times = BoxGrid((8,), (1.0,)), TIMES
        self.prior = Prior(rate=(LogUniform(0.2, 2.0), "1/s"), level=Uniform(-1.0, 1.0))
        self.given, self.observables = described({"initial": (1,)}, len(TIMES), 1, self.grid)

    def start(self, theta, *, generator):
        return {"initial": 0.3 * torch.randn(len(theta), 1, 8, generator=generator)}

    def solution(self, theta, given, *, generator):
        rate, level = (theta[:, k, None, None, None] for k in (0, 1))
        at = torch.tensor(TIMES)[:, None, None]
        noise = 0.1 * torch.randn(len(theta), 2, 1, 8, generator=generator) * (at > 0)
        return given["initial"][:, None] + at * (rate * WAVE + level) + noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(steps=200, **told):
    world = Growing()
    told = {"network": NET, "law": JointTokens(), "given": [Frame(0), Words(GRAMMAR, steps=steps)], **told}
    return Generator(world.prior, world.observables, Patches(8), **told)


def rows_of(n, seed=3):
    world = Growing()
    theta = world.prior.sample(n, generator=generator(seed))
    return Batch(theta, world(theta, generator=generator(seed + 1)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Growing(), tmp_path_factory.mktemp("rows") / "store", 600, seed=0, progress=False)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    recipe = Recipe(epochs=45, batch=30)
    return train(built(), store, tmp_path_factory.mktemp("fits") / "fit", recipe=recipe, progress=False)


def plainly(reader, theta):
    """Captions that tell of all parameters by numbers of three digits."""
    told = Grammar(GRAMMAR.phrases, "wave", templates=["{name} {number}"], digits=(3,), left_out=0.0)
    return Writer(told.build(reader.captions.prior)).anew(theta, generator=generator()).ids


def middle(reader, ids):
    """Of what the network says."""
    return reader.writer.value(reader(ids).clamp(-3.0, 3.0).mean(-1))


@pytest.mark.slow
def test_the_reader_reads(fit):
    """Fresh captions to a fifth of a score, numbers to 2 %, and a phrasing that it has not learned from."""
    reader, theta = fit.surrogate.reader, rows_of(300).theta
    assert float(reader.off) < 0.2
    assert fit.record["words_misread"] == pytest.approx(float(reader.off))
    written = reader.writer.anew(theta, generator=generator())
    ends = torch.stack([written.low, written.high], -1)
    assert float((reader(written.ids) - ends).square().mean().sqrt()) < 0.2
    assert float((reader(written.ids.roll(1, 0)) - ends).square().mean().sqrt()) > 1.0
    plain = middle(reader, plainly(reader, theta))
    assert float(((plain - theta) / theta)[:, 0].abs().median()) < 0.02
    other = Grammar(subject="wave", templates=[UNSEEN], left_out=0.0).build(reader.captions.prior)
    said = [f"wave with rate being about {rate:.2e} 1/s" for rate in theta[:, 0].tolist()]
    assert all(set(other.read(text)) == {"rate"} for text in said)
    unseen = middle(reader, reader.captions.encode(said))[:, 0]
    assert float(((unseen - theta[:, 0]) / theta[:, 0]).abs().median()) < 0.05


def drawn(fit, text, n=600):
    """How far wave and level have grown in draws from one start."""
    surrogate, initial = fit.surrogate, rows_of(1).x["initial"].expand(n, -1, -1)
    given = {"initial": initial, "words": surrogate.said([text]).expand(n, -1)}
    found = surrogate.sample(torch.full((n, 2), 1.0), given, generator=generator(4))[:, -1, 0] - initial[:, 0]
    return found @ WAVE / 4, found.mean(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["wave with very low rate", "very high growth and level 0.50", "wave with level that is low", "any wave"]
)
def test_draws_follow_the_law_that_a_caption_leaves(text, fit):
    """Beside exact draws: means to 0.25 sds of the prior, sds to 25 % or 0.15 of the prior's."""
    wave, level = drawn(fit, text)
    theta = fit.surrogate.reader.captions.drawn(text, 4_000, generator=generator(5))
    whole, noise = rows_of(4_000).theta, 0.1 * torch.randn(2, 4_000, generator=generator(6))
    for k, (found, size) in enumerate(((wave, 0.5), (level, 8**-0.5))):  # of noise in each
        exact, sd = theta[:, k] + size * noise[k], float(whole[:, k].std())
        assert float(found.mean()) == pytest.approx(float(exact.mean()), abs=0.25 * sd)
        assert float(found.std()) == pytest.approx(float(exact.std()), rel=0.25, abs=0.15 * sd)


@pytest.mark.slow
def test_the_fault_is_seen(fit):
    """Draws of another caption are farther off than that."""
    wave, level = drawn(fit, "very low rate and very high level")
    theta = fit.surrogate.reader.captions.drawn("very high rate and very low level", 4_000, generator=generator(5))
    assert abs(float(wave.mean() - theta[:, 0].mean())) > 0.5
    assert abs(float(level.mean() - theta[:, 1].mean())) > 0.6


@pytest.mark.slow
def test_captions_stand_in_place_of_parameters(fit):
    rows, surrogate = rows_of(20), fit.surrogate
    other = rows.theta.flip(0)
    words = surrogate.said(["wave with low rate"]).expand(20, -1)
    before = torch.get_rng_state()
    one, two = (
        surrogate.sample(theta, {**rows.x, "words": words}, generator=generator()) for theta in (rows.theta, other)
    )
    assert torch.equal(one, two)
    one, two = (surrogate.draw(theta, rows.x, generator=generator()) for theta in (rows.theta, other))
    assert not torch.equal(one, two)
    plain = {**rows.x, "words": plainly(surrogate.reader, rows.theta)}
    at = torch.rand(20, 2, generator=generator(), dtype=torch.float64)
    few, all_of = (surrogate.reader.drawn(plain["words"][:k], at[:k]) for k in (3, 20))
    assert torch.equal(few, all_of[:3])
    assert float((all_of - rows.theta).abs().max()) < 1e-2  # numbers of three digits
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="1 captions are given for 20 rows"):
        surrogate.draw(rows.theta, {**rows.x, "words": words[:1]}, generator=generator())


@pytest.mark.slow
def test_what_is_no_caption_of_this_generator_is_refused(fit):
    surrogate, rows = fit.surrogate, rows_of(2)
    ids, many = surrogate.said(["wave with low rate"]).expand(2, -1), len(surrogate.reader.captions.vocabulary)
    for words, says in (
        (["wave with low rate"] * 2, "generator.said"),
        (ids.float(), "generator.said"),
        (ids[0], "generator.said"),
        (ids.new_zeros(2, 5), "say nothing"),
        (ids.new_full((2, 5), many), "of another grammar"),
        (-ids, "of another grammar"),
    ):
        with pytest.raises(ValueError, match=says):
            surrogate.draw(rows.theta, {**rows.x, "words": words}, generator=generator())
    for bad in (math.nan, math.inf):
        theta = torch.tensor([[1.0, bad], [1.0, 0.0]])
        with pytest.raises(ValueError, match=r"\['level'\] are not finite"):
            surrogate.predict(theta, rows.x)
        surrogate.draw(theta, {**rows.x, "words": ids}, generator=generator())  # which tells what parameters are not


@pytest.mark.slow
def test_weights_that_were_learned_for_other_captions_are_refused():
    """Levels, or phrases, of the same number and in the same places would be taken for each other."""
    prior, others = Growing().prior, (Grammar({"rate": ["speed"]}), Grammar({"level": ["growth"]}))
    one = Reader(Grammar({"rate": ["growth"]}), prior, 2, seed=0)
    again = Reader(Grammar({"rate": ["growth"]}), prior, 3, seed=1)
    again.load_state_dict(one.state_dict())
    assert torch.equal(again.embedding.weight, one.embedding.weight)
    for grammar in others:
        with pytest.raises(ValueError, match="Train it again"):
            Reader(grammar, prior, 2, seed=0).load_state_dict(one.state_dict())
    with pytest.raises(ValueError, match="Train it again"):
        again.load_state_dict({name: value for name, value in one.state_dict().items() if name != "grammar"})


@pytest.mark.slow
def test_captions_leave_the_prior_within_them(fit):
    """What the grammar reads is exact, as if each caption were asked about by itself; 20 bins, a false alarm in 1e4."""
    reader = fit.surrogate.reader
    texts = ["wave with low rate", "wave with level 0.50", "any wave", "wave with very high growth"] * 2_000
    at = torch.rand(8_000, 2, generator=generator(), dtype=torch.float64)
    found = reader.drawn(reader.captions.encode(texts), at)
    for k, text in enumerate(texts[:4]):
        alone = reader.captions.drawn(text, 2_000, generator=generator(1))
        for one, two in zip(found[k::4].T, alone.T, strict=True):
            apart = (one.sort().values - two.sort().values).abs().max() / two.std().clamp_min(1e-3)
            assert float(apart) < 0.5
        said = reader.captions.read(text)
        for name, (low, high) in said.items():
            inside = found[k::4, reader.captions.prior.names.index(name)]
            assert low <= float(inside.min()) <= float(inside.max()) <= high
    with pytest.raises(ValueError, match="rate from .* is too improbable by the prior"):
        reader.captions.drawn("wave with rate 100", 5, generator=generator())
    untaught = built(steps=2).reader
    assert torch.equal(untaught.drawn(untaught.captions.encode(texts), at), found)


@pytest.mark.slow
def test_training_looks_at_parameters_alone(fit):
    surrogate, rows = copy.deepcopy(fit.surrogate), rows_of(30)
    loss = surrogate.loss(rows, generator=generator())
    plain = Generator(
        Growing().prior, Growing().observables, Patches(8), network=NET, law=JointTokens(), given=[Frame(0)]
    )
    theirs = {name: value for name, value in surrogate.state_dict().items() if not name.startswith("reader.")}
    plain.load_state_dict(theirs)
    assert torch.equal(loss, plain.eval().loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in surrogate.reader.parameters())


@pytest.mark.slow
def test_it_is_read_back_and_emulates(fit):
    world, rows = Growing(), rows_of(20)
    again: Any = load_fit(fit.folder)
    assert torch.equal(*(f.surrogate.draw(rows.theta, rows.x, generator=generator(2)) for f in (fit, again)))
    given = {**rows.x, "words": again.surrogate.said(["wave with high growth"]).expand(20, -1)}
    assert torch.equal(*(f.surrogate.draw(rows.theta, given, generator=generator(2)) for f in (fit, again)))
    assert again.record["words_misread"] == pytest.approx(float(fit.surrogate.reader.off))
    theta = world.prior.sample(300, generator=generator())
    one, two = (source(theta, generator=generator(1))["u"] for source in (Emulator(again, world), world))
    assert float((one - two)[:, 1:].square().mean().sqrt()) < 0.3 * float(two[:, 1:].std())


@pytest.mark.slow
def test_questions_hear_captions(fit):
    """How probable it is that the level ends above 0.6: by the prior 1/5, after captions 0 and 1."""
    rows, found = rows_of(1), {}
    for text in ("wave with very low level", "wave with very high level"):
        given = {"initial": rows.x["initial"], "words": fit.surrogate.said([text])}
        event = Event(lambda u: u[:, -1].mean((1, 2)), 0.1)
        found[text] = conditioned(fit.surrogate, rows.theta, given, event, 80, generator=generator()).log_evidence
    assert found["wave with very high level"] > -0.3
    assert not found["wave with very low level"] > -2.0
    for text in (["wave with very low level"], fit.surrogate.said(["any wave", "any wave"])):
        asked: Any = {"initial": rows.x["initial"], "words": text}
        with pytest.raises(ValueError, match=r"result of generator.said\(\[\.\.\.\]\)|'words' has 2 rows"):
            conditioned(fit.surrogate, rows.theta, asked, event, 80, generator=generator())
    at_words: Any = {"initial": rows.x["initial"], "words": fit.surrogate.said(["any wave"])}
    seen = Measured(lambda u: u[:, -1, 0, ::4], torch.zeros(2), sd=0.1)
    with pytest.raises(ValueError, match="captions leave parameters open"):
        conditioned(fit.surrogate, rows.theta, at_words, seen, 80, generator=generator())
    with pytest.raises(ValueError, match="captions leave parameters open"):
        fit.surrogate.from_noise(torch.randn(1, fit.surrogate.noise), rows.theta, at_words)


@pytest.mark.slow
def test_what_is_said_beside_the_grammar_or_misread_is_told(fit, recwarn):
    surrogate = fit.surrogate
    ids = surrogate.said(["wave with very high level"])
    assert not recwarn
    heard = surrogate.reader.heard(ids)[0]
    assert set(heard) == {"level"}
    assert heard["level"] == (pytest.approx(0.6), math.inf)
    with pytest.warns(UserWarning, match="no template for 'level high', .* it is understood as"):
        beside = surrogate.said(["level high"])
    assert surrogate.reader.heard(beside)[0]["level"][0] > 0.0
    with pytest.raises(ValueError, match="'lvel' .* near ones are level"):
        surrogate.said(["very high lvel"])
    with pytest.raises(ValueError, match="impossible by the prior, by which 'rate' is from 0.2 to 2"):
        surrogate.said(["wave with rate 100"])
    for texts in ("wave with low rate", []):
        with pytest.raises(ValueError, match="captions are a list of texts"):
            surrogate.said(texts)
    with pytest.raises(ValueError, match="knows no words"):
        built(given=[Frame(0)]).said(["any wave"])
    with pytest.raises(ValueError, match="Words of one grammar, and 2"):
        built(given=[Words(), Words()])
    with pytest.raises(ValueError, match="steps"):
        Words(steps=0)


@pytest.mark.slow
def test_a_reader_that_has_hardly_learned_is_told(store, tmp_path):
    members = [built(steps=2, law=MixtureTokens(), seed=k) for k in range(2)]
    with pytest.warns(UserWarning, match="are misread: on fresh ones the reader is"):
        fits = train_ensemble(members, store, tmp_path, recipe=Recipe(epochs=1, batch=200), progress=False)
    rows = rows_of(5)
    surrogates: Any = [one.surrogate for one in fits]
    one, two = (one.sample(rows.theta, rows.x, generator=generator()) for one in surrogates)
    assert not torch.allclose(one, two, atol=1e-2)
    reader = Reader(GRAMMAR, Growing().prior, 2, seed=0)
    assert math.isnan(float(reader.off))
