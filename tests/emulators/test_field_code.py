"""Learned codes: a front on a ring, which is one number wherever it lies, and which modes need many for."""

from __future__ import annotations

import pytest
import torch
from emulators.fields import Decay
from torch import distributions as td

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable, Prior
from sciinf.core.component import to_json
from sciinf.emulators import Field, FieldCode, Frame, Generator, Graph, LearnedCode
from sciinf.emulators.decoders import Query
from sciinf.emulators.encoders import GridEncoder, Perceiver, places
from sciinf.emulators.field_code import collapsed, expected_nats
from sciinf.emulators.objectives import KL, Plain
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import AtOnce, MixtureTokens, Pod
from sciinf.simulators.dynamics.field_equation import Evolution, column, described
from sciinf.simulators.dynamics.grid import BoxGrid

pytestmark = pytest.mark.filterwarnings("ignore:held-out simulations show")  # its training is short
SMALL = (GridEncoder(8), Query(3, coarsest=4, features=8, width=24))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Front(Evolution):
    """A hat with soft edges that is carried along a ring; other fields beside it if asked for."""

    name = "front"
    block = 512

    def __init__(self, points=32, times=(0.0, 0.3, 0.7), beside=False):
        self.grid, self.times, self.random = BoxGrid((points,), (1.0,)), tuple(times), True
        self.prior, self.beside = Prior(speed=td.Uniform(0.2, 1.0)), beside
        self.given, self.observables = described({"at": (1,), "initial": (1,)}, len(times), 1, self.grid)

    def start(self, theta, *, generator):
        where = torch.rand(len(theta), 1, 1, generator=generator, dtype=torch.float64)
        return {"at": where.expand(-1, 1, *self.grid.shape), "initial": self.hat(where)}

    def hat(self, where):
        away = (self.grid.coordinates[0] - where + 0.5) % 1 - 0.5
        return 3 + torch.sigmoid((0.15 - away.abs()) / 0.02)

    def solve(self, theta, given):
        speed = column(theta.double(), self.prior, "speed", given["at"])
        return torch.stack([self.hat(given["at"][..., :1].double() + speed * t) for t in self.times], 1)

    def rate(self, field, theta):
        return -column(theta, self.prior, "speed", field) * self.grid.derivative(field, -1)


def built(**told):
    equation = Front()
    return FieldCode(equation.prior, equation.observables, *SMALL, **{"numbers": 2, "frames": 3, **told})


def frames(equation, n=60, seed=5):
    theta = equation.prior.sample(n, generator=generator(seed))
    return equation(theta, generator=generator(seed + 1))["u"].flatten(0, 1)


def off(found, true):
    """Relative to what varies."""
    return float((found - true).square().mean().sqrt() / true.std())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(Front(), tmp_path_factory.mktemp("rows") / "store", 400, seed=0, progress=False)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    recipe = Recipe(epochs=40, batch=20)
    return train(built(), store, tmp_path_factory.mktemp("fits") / "code", recipe=recipe, progress=False)


@pytest.mark.slow
def test_two_numbers_tell_a_front_that_modes_do_not(fit):
    equation, code = Front(), fit.learned
    true = frames(equation)
    pod = Pod(2, width=2).build(1, (32,))
    pod.look(lambda: iter([frames(equation, 300, seed=9)]))
    with torch.no_grad():
        learned, modes = off(code.decode(code.encode(true)), true), off(pod.decode(pod.encode(true)), true)
        finer = Front(64)
        again = code.decode(code.encode(true), places((64,), edges=False))
    assert learned < 0.3 * modes
    assert off(again, frames(finer)) < 1.5 * learned  # the same fronts on twice the grid
    assert fit.record["relative_error"] < 0.03
    assert float(code.mean) == pytest.approx(float(true.mean()), abs=0.05)
    assert float(code.sd) == pytest.approx(float(true.std()), rel=0.05)
    assert fit.record["numbers_alive"] == 2


@pytest.mark.slow
def test_a_fit_is_read_back_to_the_same_bits(fit):
    true, again = frames(Front(), 5), load_fit(fit.folder).learned
    assert torch.equal(again.encode(true), fit.learned.encode(true))
    assert torch.equal(again.decode(again.encode(true)), fit.learned.decode(fit.learned.encode(true)))


@pytest.mark.parametrize("encoder", [GridEncoder(8), Perceiver(16, 4, heads=2), Graph(8, 16)])
def test_points_may_be_any_in_any_order_and_the_decoder_knows_its_own_grid(encoder):
    equation = Front()
    code = FieldCode(equation.prior, equation.observables, encoder, SMALL[1], numbers=4, points=12)
    batch = Batch(torch.ones(6, 1), {"u": frames(equation, 6).unflatten(0, (6, 3))})
    code.standardise(lambda: iter([batch]))
    true, at = frames(equation, 4), places((32,), edges=False)
    order = torch.randperm(32, generator=generator())
    one, two = code.encode(true[..., order], at[order]), code.encode(true, at)
    assert torch.allclose(one, two, atol=1e-5)
    moved = code.encode(true[..., order], at)  # the same values elsewhere
    assert not torch.allclose(moved, one, atol=1e-3)
    assert [grid.shape for grid in code.decoder.grids] == [(4,), (8,), (16,)]
    few = code.encode(true[..., order[:7]], at[order[:7]])
    assert not torch.allclose(few, one, atol=1e-3)
    assert torch.allclose(code.decode(one).flatten(2), code.decode(one, at))
    loss = code.loss(batch, generator=generator(1))
    assert loss.shape == (6,)
    assert torch.equal(loss, code.loss(batch, generator=generator(1)))
    assert not torch.equal(loss, code.loss(batch, generator=generator(2)))
    loss.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in code.parameters())


@pytest.mark.parametrize("encoder", [GridEncoder(4), Perceiver(8, 2, heads=2), Graph(4, 8)])
def test_fields_of_two_directions_with_edges(encoder):
    """Of a field that is its own first coordinate the grid that points are spread over is, too."""
    prior, fields = Prior(nu=td.Uniform(0.1, 1.0)), {"u": Observable((2, 1, 16, 12))}
    code = FieldCode(prior, fields, encoder, SMALL[1], numbers=3, points=100, asked=50, edges=True)
    batch = Batch(torch.ones(5, 1), {"u": torch.randn(5, 2, 1, 16, 12, generator=generator())})
    code.standardise(lambda: iter([batch]))
    assert code.loss(batch, generator=generator()).shape == (5,)
    z = code.encode(batch.x["u"][:, 0])
    assert code.decode(z).shape == (5, 1, 16, 12)
    at = places((31, 23), edges=True)
    finer = code.decode(z, at).unflatten(2, (31, 23))
    assert torch.allclose(finer[..., ::2, ::2], code.decode(z), atol=1e-5)  # the grid's own points
    if isinstance(encoder, GridEncoder):
        seen = []
        code.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        code.encoder(at[:, 0][None, None], at, code.decoder)
        assert torch.allclose(seen[0][0, 0, 2:-2], places((16, 12), edges=True)[:, 0].reshape(16, 12)[2:-2], atol=1e-3)


@pytest.mark.parametrize(("edges", "middle"), [(False, 0.0), (True, 1.0)])
def test_points_are_spread_over_the_grid_across_its_seam(edges, middle):
    """Points 0.02 on either side of 0, with values 1 and -1: their mean there is 0, unless the box ends at 0."""
    network = GridEncoder(4).build(1, (50,), 2, edges=edges)
    seen = []
    network.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    at = torch.tensor([[0.02], [0.98], [0.5], [0.52]])
    network(torch.tensor([1.0, -1.0, 0.0, 0.0])[None, None], at, torch.zeros_like)
    values, density = seen[0][0]
    assert float(values[0]) == pytest.approx(middle, abs=1e-3)
    width = 0.5 / 4
    around = (at[:, 0] - (0.98 if edges else 0.96)).abs()
    around = around if edges else torch.minimum(around, 1 - around)
    expected = (-around.square() / (2 * width**2)).exp().sum()
    assert float(density[48]) == pytest.approx(float(expected), rel=0.02 if edges else 1e-4)


@pytest.mark.slow
def test_some_points_stand_for_all():
    """The gradient from 8 of 32 points is that from all, on average."""
    whole, some = (built(objective=Plain(), asked=asked) for asked in (None, 8))
    rows = frames(Front(), 8)
    batch = Batch(torch.ones(8, 1), {"u": rows.unflatten(0, (8, 3))})
    found = []
    for code, passes in ((whole, 1), (some, 600)):
        code.standardise(lambda: iter([batch]))
        last = list(code.decoder.parameters())[-1]
        each = [torch.autograd.grad(code.loss(batch, generator=generator(k)).mean(), last)[0] for k in range(passes)]
        found.append(torch.stack(each))
    noise = float(found[1].std() / len(found[1]) ** 0.5)
    assert abs(float(found[1].mean() - found[0].mean())) < 4 * noise  # once in 16,000
    assert noise < 0.05 * abs(float(found[0].mean()))


def test_rows_that_are_validated_in_pieces_have_the_same_losses():
    code, rows = built(objective=Plain()), frames(Front(), 300).unflatten(0, (300, 3))
    batch = Batch(torch.ones(300, 1), {"u": rows})
    with torch.no_grad():
        pieces = code.loss(batch, generator=generator())
    assert torch.allclose(pieces, code.loss(batch, generator=generator()))


@pytest.fixture(scope="module")
def law(store, fit, tmp_path_factory):
    equation = Front()
    made = Generator(
        equation.prior,
        equation.observables,
        LearnedCode(fit.learned, fit.digest, width=1),
        order=AtOnce(),
        law=MixtureTokens(2),
        given=[Frame(0, "initial")],
        network=TokenTransformer(16, 1, heads=2),
    )
    recipe = Recipe(epochs=2, batch=20)
    return train(made, store, tmp_path_factory.mktemp("laws") / "law", recipe=recipe, progress=False)


@pytest.mark.slow
def test_a_generator_keeps_its_code_as_it_was(law, fit):
    kept = dict(law.surrogate.code.learned.state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in fit.learned.state_dict().items())
    assert not any(p.requires_grad for p in law.surrogate.code.parameters())
    theta = torch.full((4, 1), 0.5)
    given = {"initial": frames(Front(), 4).unflatten(0, (4, 3))[:, 0]}
    drawn = law.surrogate.draw(theta, given, generator=generator())
    assert drawn.shape == (4, 3, 1, 32)
    again = load_fit(law.folder).surrogate.draw(theta, given, generator=generator())
    assert torch.equal(drawn, again)


@pytest.mark.slow
def test_a_code_in_a_generator_knows_whose_units_it_is_given(law, fit):
    true, code = frames(Front(), 5), law.surrogate.code
    mean, sd = law.surrogate.level()
    tokens = code.encode((true - mean) / sd)
    assert torch.allclose(tokens.flatten(1), fit.learned.encode(true), atol=1e-4)
    assert torch.allclose(mean + sd * code.decode(tokens), fit.learned.decode(fit.learned.encode(true)), atol=1e-4)
    other = LearnedCode(fit.learned).build(1, (32,))  # in a generator that has other rows, and so another standard
    other.look(lambda: iter([]), (mean + 1, 2 * sd))
    found = other.encode((true - mean - 1) / (2 * sd))
    assert torch.allclose(found.flatten(1), fit.learned.encode(true), atol=1e-4)
    assert torch.allclose(mean + 1 + 2 * sd * other.decode(found), fit.learned.decode(found.flatten(1)), atol=1e-4)


@pytest.mark.slow
def test_codes_are_told_apart_by_their_digests(fit):
    equation = Front()

    one, two = (
        to_json(
            Generator(equation.prior, equation.observables, LearnedCode(fit.learned, of), given=[Frame(0, "initial")])
        )
        for of in ("a", "b")
    )
    assert one != two


@pytest.mark.slow
def test_numbers_die_under_noise(store, tmp_path):
    noisy = built(noise=20.0, objective=KL())
    fit = train(noisy, store, tmp_path / "code", recipe=Recipe(epochs=6, batch=20), progress=False)
    true = frames(Front(), 200)
    assert fit.record["numbers_alive"] == 0
    scaled = (true - fit.learned.mean) / fit.learned.sd
    assert float(expected_nats(scaled.flatten(1), 2, 20.0).sum()) == 0.0
    assert float(expected_nats(scaled.flatten(1), 2, 0.02).min()) > 3.0
    assert not bool(collapsed(fit.learned.coded(true)).alive.any())


def test_edges_are_found():
    prior, fields = Prior(nu=td.Uniform(0.1, 1.0)), {"u": Observable((3, 1, 32))}
    slope = torch.linspace(0, 1, 32) * torch.rand(20, 3, 1, 1, generator=generator())
    code = FieldCode(prior, fields, *SMALL, numbers=2)
    code.standardise(lambda: iter([Batch(torch.ones(20, 1), {"u": slope})]))
    assert code.edges
    assert float(code.grid.max()) == 1.0
    around = FieldCode(*(Front().prior, Front().observables), *SMALL, numbers=2)
    around.standardise(lambda: iter([Batch(torch.ones(20, 1), {"u": frames(Front(), 20).unflatten(0, (20, 3))})]))
    assert not around.edges
    assert float(around.grid.max()) == pytest.approx(31 / 32)


@pytest.mark.slow
def test_what_does_not_suit_is_refused(fit):
    equation, decay = Front(), Decay()
    code = LearnedCode(fit.learned)
    for make, says in (
        (lambda: FieldCode(decay.prior, decay.observables, target="initial"), "shape"),
        (lambda: FieldCode(decay.prior, {"u": Observable((5, 3))}), "shape"),
        (lambda: built(numbers=0), "numbers"),
        (lambda: built(noise=0.0), "noise"),
        (lambda: built(points=33), "points"),
        (lambda: LearnedCode(fit.learned, width=3), "no whole number of tokens"),
        (lambda: code.build(2, (32,)), "was learned of fields of 1 x"),
        (lambda: Perceiver(10, heads=4), "heads"),
        (lambda: Query(0), "levels"),
        (
            lambda: Generator(equation.prior, equation.observables, code, given=[Frame(0, "initial"), Field("at")]),
            "is to code others",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    with pytest.raises(TypeError, match="trained FieldCode"):
        LearnedCode(SMALL[0])
