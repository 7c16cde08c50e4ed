"""Equations as symbols, the solver of all of them, and a network that is told which one it is."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from simulators.test_contract import FOLDER, generator, loaded

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable
from sciinf.core.proposal import Proposal
from sciinf.emulators import Emulator
from sciinf.emulators.multi_operator import MultiOperator, RingLayer, SymbolsAndFrames, patches
from sciinf.simulators.dynamics.equation_symbols import NUMBER, SYMBOLS, Tokens, read, written
from sciinf.simulators.dynamics.equation_terms import NAMES, TERMS, Families
from sciinf.training import train_ensemble

SMALL = SymbolsAndFrames(32, heads=2, patch=4, fusion=1, decoder=1)
TWO = Families({"carried": {"u_x": (-2.0, 2.0)}, "spread": {"u_xx": (0.02, 0.3)}})
ENOUGH = Recipe(batch=32, optimiser="muon", learning_rate=1e-2, epochs=20)
SEEN, UNSEEN = ((0.0, 0.2), (0.35, 0.65), (0.8, 1.0)), ((0.2, 0.35), (0.65, 0.8))  # parts of every range


def mixed(**arguments) -> Any:
    return type(loaded(FOLDER / "pde" / "mixed_equations.py"))(**arguments)


def small():
    """Two families, and frames so close to each other that they hardly tell which."""
    return mixed(points=16, times=(0.25, 0.5, 0.75), gap=0.01, families=TWO, longest=0.05)


def single(name, **arguments) -> Any:
    return type(loaded(FOLDER / "pde" / f"{name}.py"))(**arguments)


def built(simulator, network=SMALL, **told) -> Any:
    return MultiOperator(simulator.prior, simulator.observables, simulator.families, network, **told)


def rows_of(simulator, n=24, seed=3, law=None):
    theta = (law or simulator.prior).sample(n, generator=generator(seed))
    return Batch(theta, simulator(theta, generator=generator(seed + 1)))


def relative(found, true):
    """Of each row, the mean over frames."""
    off = (found.detach() - true).flatten(2).norm(dim=2)
    return (off / true.flatten(2).norm(dim=2)).mean(1)


class InParts(Proposal):
    """Families as in the prior, and every share in parts of what it goes over."""

    def __init__(self, prior, parts):
        self.prior, self.parts = prior, parts

    def sample(self, n, *, generator):
        theta = self.prior.sample(n, generator=generator)
        edges = torch.tensor(self.parts)
        ends = (edges[:, 1] - edges[:, 0]).cumsum(0)
        along = theta[:, 1:].clamp(1e-4, 1 - 1e-4) * ends[-1]
        part = (along[..., None] > ends).sum(-1)
        theta[:, 1:] = edges[part, 1] - (ends[part] - along)
        return theta

    def to_json(self):
        return {"parts": [list(part) for part in self.parts]}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(small(), tmp_path_factory.mktemp("rows") / "store", 400, seed=0)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    return train(built(small()), store, tmp_path_factory.mktemp("fits") / "fit", recipe=ENOUGH)


# --- symbols --------------------------------------------------------------------------------------------------------


def test_an_equation_is_written_as_it_is_read():
    assert written([0.0, 0.0, 0.0, -1.0, 0.1, 0.0, 0.0]) == ["+", "*", -1.0, "*", "u", "d1", "u", "*", 0.1, "d2", "u"]
    assert read(["d1", "*", "u", "u"]) == [0, 0, 0, 2.0, 0, 0, 0]  # by Leibniz' rule
    assert read(["*", "u", "+", 2.0, "*", -2.0, "u"]) == [2.0, -2.0, 0, 0, 0, 0, 0]  # logistic growth, in brackets
    assert read(["d2", "d1", "+", "u", 5.0]) == [0, 0, 0, 0, 0, 1.0, 0]
    assert read([]) == [0.0] * len(TERMS)
    for wrong, says in (
        (["+", "u"], "not at its end"),
        (["u", "u"], "ends after 1 of 2"),
        (["sin", "u"], "no symbol"),
        (["*", "d1", "u", "d1", "u"], "none of the terms"),
        ([3.0], "none of the terms"),
    ):
        with pytest.raises(ValueError, match=says):
            read(wrong)


def symbols_of(tokens: torch.Tensor, values: torch.Tensor) -> list[str | float]:
    """One equation of those that `Tokens` made."""
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return [value if SYMBOLS[token] == NUMBER else SYMBOLS[token] for token, value in pairs if token]


def test_tokens_of_every_family_are_read_back_to_the_equation():
    families = mixed().families
    theta = families.prior.sample(200, generator=generator())
    coefficients, number = families.coefficients(theta), families.number(theta)
    tokens, values = Tokens()(coefficients)
    back = [read(symbols_of(t, v)) for t, v in zip(tokens, values, strict=True)]
    assert torch.equal(torch.tensor(back, dtype=torch.float64), coefficients)
    assert set(number.tolist()) == set(range(5))
    for k, pattern in enumerate(families.patterns):
        found = coefficients[number == k]
        assert [name for name, some in zip(NAMES, (found != 0).any(0), strict=True) if some] == list(pattern)
        low, high = torch.tensor([families.ranges[families.names[k]][name] for name in pattern]).double().T
        drawn = found[:, [NAMES.index(name) for name in pattern]]
        assert bool(((drawn >= low - 1e-9) & (drawn <= high + 1e-9)).all())
    # the fault: two numbers that change places are another equation
    swapped = values.clone()
    two = (values[0] != 0).nonzero().flatten()[:2]
    swapped[0, two] = values[0, two.flip(0)]
    assert read(symbols_of(tokens[0], swapped[0])) != back[0]


def test_short_tables_have_the_same_tokens_and_refuse_what_is_longer():
    all_of_them, short = Tokens(), Tokens(5)
    advection = torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(all_of_them(advection)[0][:, :5], short(advection)[0])
    assert torch.equal(short(torch.ones(1, 7))[0], torch.full((1, 5), -1))


# --- the solver of all ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "terms", "theta"),
    [
        ("advection", {"u_x": -0.7, "u_xx": 0.02}, [0.7, 0.02, 1.0]),
        ("korteweg_de_vries", {"u u_x": -6.0, "u_xxx": -0.04}, [0.2, 1.0]),
        ("kuramoto_sivashinsky", {"u u_x": -1.0, "u_xx": -1.0, "u_xxxx": -0.1}, [0.1, 1.0]),
        ("reaction_diffusion", {"u_xx": 0.03, "u": 2.0, "u^2": -2.0}, [0.03, 2.0]),
    ],
)
def test_it_solves_what_single_simulators_solve(name, terms, theta):
    times, ring = (0.25, 0.5), {"points": 128, "length": 2 * math.pi}
    one = single(name, times=times, longest=0.002, **ring) if name != "advection" else single(name, times=times, **ring)
    families = Families({name: {term: (value, value) for term, value in terms.items()}})
    all_of_them = mixed(points=128, times=times, families=families, longest=0.002)
    given = all_of_them.start(families.prior.sample(3, generator=generator()), generator=generator(1))
    theta = torch.tensor([theta]).double().expand(3, -1)
    expected = one.solve(theta, {"initial": given["frames"][:, 1:]})
    latent = families.prior.sample(3, generator=generator()).double()
    found = all_of_them.solve(latent, given)
    assert float(relative(found, expected).max()) < 1e-5
    assert torch.allclose(all_of_them.rate(found, latent), one.rate(expected, theta), rtol=1e-3, atol=1e-3)
    other = Families({name: {term: (1.05 * value, 1.05 * value) for term, value in terms.items()}})
    assert float(relative(mixed(points=128, times=times, families=other).solve(latent, given), expected).max()) > 1e-3


def test_it_solves_burgers_on_a_ring_of_another_length():
    one, scale = single("burgers", times=(0.25, 0.5)), 2 * math.pi
    families = Families({"burgers": {"u u_x": (-scale, -scale), "u_xx": (0.01 * scale**2, 0.01 * scale**2)}})
    all_of_them = mixed(points=128, times=(0.25, 0.5), families=families)
    latent = families.prior.sample(3, generator=generator())
    given = all_of_them.start(latent, generator=generator(1))
    expected = one.solve(torch.tensor([[0.01, 1.0]]).expand(3, -1), {"initial": given["frames"][:, 1:]})
    assert float(relative(all_of_them.solve(latent, given), expected).max()) < 1e-5


def test_steps_and_points_are_enough_for_every_family():
    equation = mixed()
    theta = equation.prior.sample(64, generator=generator(5))
    given = equation.start(theta, generator=generator(6))
    found = equation.solve(theta, given)
    halved = mixed(longest=equation.longest / 2).solve(theta, given)
    assert set(equation.families.number(theta).tolist()) == set(range(5))
    assert float(relative(halved, found).max()) < 1e-4
    wide = torch.fft.irfft(2 * torch.fft.rfft(given["frames"]), n=128)
    finer = mixed(points=128).solve(theta, {"frames": wide})[..., ::2]
    assert float(relative(finer, found).max()) < 1e-4
    # the given frames are of one solution, a gap apart
    between = equation.later(theta, given["frames"][:, :1], (equation.gap,))[:, 0]
    assert torch.allclose(between, given["frames"][:, 1:], atol=1e-9)


# --- the network ----------------------------------------------------------------------------------------------------


def test_shapes_seed_batch_and_slopes():
    simulator = mixed()
    rows, surrogate = rows_of(simulator), built(simulator)
    loss = surrogate.loss(rows, generator=generator())
    assert loss.shape == (24,)
    assert torch.equal(loss, built(simulator).loss(rows, generator=generator()))
    assert not torch.equal(loss, built(simulator, seed=1).loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in surrogate.parameters())
    whole = surrogate.predict(rows.theta, rows.x)
    assert whole.shape == (24, 6, 1, 64)
    alone = surrogate.predict(rows.theta[3:4], {k: v[3:4] for k, v in rows.x.items()})
    assert torch.allclose(whole[3:4], alone, atol=1e-5)
    coefficients = simulator.families.coefficients(rows.theta)
    assert torch.allclose(whole, surrogate.told(coefficients, rows.x["frames"]), atol=1e-5)
    assert surrogate.told(torch.ones(24, 7), rows.x["frames"]).shape == whole.shape  # an equation of no family
    assert sum(p.numel() for p in built(simulator, None).parameters()) < 2_000_000


def test_turned_by_patches_it_predicts_the_same_turned():
    simulator = mixed()
    rows, surrogate = rows_of(simulator), built(simulator)
    found = surrogate.predict(rows.theta, rows.x)
    turned = surrogate.predict(rows.theta, {"frames": rows.x["frames"].roll(12, -1)})
    assert torch.allclose(turned, found.roll(12, -1), atol=1e-4)
    assert not torch.allclose(turned, found, atol=1e-2)


def test_it_is_a_function_of_fields_in_units_of_their_own():
    """With the level told apart, adding to a field and multiplying it are done to what the network says."""
    surrogate = built(small(), symbols=False)
    frames = rows_of(small()).x["frames"]
    torch.nn.init.zeros_(surrogate.network.level.map[2].weight)  # makes it deaf to the level
    found = surrogate.told(torch.ones(24, 7), frames)
    moved = surrogate.told(torch.ones(24, 7), 5.0 + 3.0 * frames)
    assert torch.allclose(moved, 5.0 + 3.0 * found, atol=1e-3)


def test_absent_tokens_are_not_looked_at_and_patches_overlap():
    torch.manual_seed(0)
    layer, tokens = RingLayer(16, 2), torch.randn(2, 5, 16)
    there = torch.tensor([[True, True, False], [True, True, False]])
    others = torch.randn(2, 3, 16)
    found = layer(tokens, None, None, (others, there))
    others[:, 2] = others[:, 2].flip(-1)
    assert torch.equal(found, layer(tokens, None, None, (others, there)))
    others[:, 1] = others[:, 1].flip(-1)
    assert not torch.allclose(found, layer(tokens, None, None, (others, there)))
    assert patches(torch.arange(8.0)[None, None], 4)[0].tolist() == [
        [6, 7, 0, 1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6, 7, 0, 1],
    ]


@pytest.mark.slow
def test_symbols_help_and_wrong_ones_harm(fit, store, tmp_path):
    simulator = small()
    rows = rows_of(simulator, 200, seed=11)
    surrogate: Any = fit.surrogate
    error = float(relative(surrogate.predict(rows.theta, rows.x), rows.x["u"]).mean())
    assert error < 0.03
    assert fit.record["relative_error"] == pytest.approx(error, rel=0.5)
    coefficients, frames = simulator.families.coefficients(rows.theta), rows.x["frames"]
    shuffled = surrogate.told(coefficients[torch.randperm(200, generator=generator())], frames)  # the fault
    assert float(relative(shuffled, rows.x["u"]).mean()) > 4 * error
    deaf: Any = train(built(simulator, symbols=False), store, tmp_path / "deaf", recipe=ENOUGH).surrogate
    assert float(relative(deaf.predict(rows.theta, rows.x), rows.x["u"]).mean()) > 2 * error
    assert torch.equal(deaf.told(coefficients, frames), deaf.told(coefficients.flip(0), frames))


@pytest.mark.slow
def test_a_fit_is_read_back_and_stands_in_for_the_simulator(fit):
    rows, again = rows_of(small()), load_fit(fit.folder)
    found = [one.surrogate.predict(rows.theta, rows.x) for one in (fit, again)]
    assert torch.equal(*found)
    emulated = Emulator(again, small(), error=False)(rows.theta, generator=generator(4))
    assert torch.allclose(emulated["frames"], rows.x["frames"])
    assert torch.allclose(emulated["u"], found[0], atol=1e-5)


@pytest.mark.slow
def test_an_ensemble_is_trained_at_once(store, tmp_path):
    members = [built(small(), seed=k) for k in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the surrogate's")  # one epoch
        fits = train_ensemble(members, store, tmp_path, recipe=Recipe(epochs=1, batch=50))
    assert len(fits) == 2


def test_what_does_not_fit_is_refused():
    simulator = mixed()
    prior, fields, families = simulator.prior, simulator.observables, simulator.families
    for make, says in (
        (lambda: MultiOperator(prior, fields, TWO), "the families' parameters are"),
        (lambda: MultiOperator(prior, fields, families, SymbolsAndFrames(patch=7)), "whole patches of 7"),
        (lambda: MultiOperator(prior, {**fields, "u": Observable((6, 3, 64))}, families), "no frames"),
        (lambda: SymbolsAndFrames(90), "no multiple"),
        (lambda: SymbolsAndFrames(fusion=0), "fusion must be"),
        (lambda: Families({}), "have a name and terms"),
        (lambda: Families({"a": {"v": (0.0, 1.0)}}), "has the terms"),
        (lambda: Families({"a": {"u": (1.0, 0.0)}}), "lowest and highest"),
        (lambda: mixed(times=(0.0, 1.0)), "come after"),
    ):
        with pytest.raises(ValueError, match=says):
            make()


# --- the gate -------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_symbols_cut_the_error_and_unseen_coefficients_are_no_harder(tmp_path):
    simulator = mixed()
    store = simulate(simulator, tmp_path / "rows", 3_000, seed=1, proposal=InParts(simulator.prior, SEEN))
    recipe = Recipe(batch=32, optimiser="muon", learning_rate=5e-3, epochs=25)
    errors = {}
    for symbols in (True, False):
        fit = train(built(simulator, None, symbols=symbols), store, tmp_path / str(symbols), recipe=recipe)
        for name, parts in (("seen", SEEN), ("unseen", UNSEEN)):
            rows = rows_of(simulator, 600, seed=99, law=InParts(simulator.prior, parts))
            with torch.no_grad():
                each = relative(fit.surrogate.predict(rows.theta, rows.x), rows.x["u"])
            family = simulator.families.number(rows.theta)
            errors[symbols, name] = [float(each[family == k].mean()) for k in range(5)]
    print(errors)
    means = {key: sum(value) / 5 for key, value in errors.items()}
    assert means[True, "seen"] < 0.9 * means[False, "seen"]
    assert means[True, "unseen"] < 1.5 * means[True, "seen"]
