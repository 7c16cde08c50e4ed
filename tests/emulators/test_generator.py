"""Laws of fields: every order, law and code against the contract, and what is learned against a law that is known."""

from __future__ import annotations

import itertools

import pytest
import torch
from emulators.fields import Decay
from torch import distributions as td

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable, Prior
from sciinf.emulators import Emulator, Field, Frame, Generator, Members
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import AtOnce, Frames, Haar, JointTokens, LearnedLaw, MixtureTokens, Patches, Pod
from sciinf.training import train_ensemble
from simulators.pde.forced_burgers import ForcedBurgers

pytestmark = pytest.mark.slow

NET = TokenTransformer(32, 2, heads=2)
TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ORDERS = (AtOnce(), Frames(1), Frames(2, context=2))
LAWS = (JointTokens(), MixtureTokens(2))
CODES = (Patches(4), Pod(8, width=4), Haar(1), Haar(2, kept=0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def world(**told):
    return ForcedBurgers(16, TIMES, steepening=0.0, longest=0.1, **told)


def rows_of(equation, n=24, seed=3):
    theta = equation.prior.sample(n, generator=generator(seed))
    return Batch(theta, equation(theta, generator=generator(seed + 1)))


def built(equation, code=None, **told):
    return Generator(equation.prior, equation.observables, code, network=NET, **{"order": Frames(1), **told})


def ready(surrogate, rows):
    surrogate.standardise(lambda: iter([rows]))
    return surrogate


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(world(), tmp_path_factory.mktemp("rows") / "store", 600, seed=0, progress=False)


@pytest.fixture(scope="module")
def fits(store, tmp_path_factory):
    folder, recipe = tmp_path_factory.mktemp("fits"), Recipe(epochs=25, batch=30)
    laws = {"joint": JointTokens(), "mixture": MixtureTokens()}
    return {
        name: train(built(world(), law=law), store, folder / name, recipe=recipe, progress=False)
        for name, law in laws.items()
    }


@pytest.mark.parametrize(("order", "law", "code"), list(itertools.product(ORDERS, LAWS, CODES)))
def test_every_order_law_and_code(order, law, code):
    equation = world()
    rows = rows_of(equation)
    surrogate = ready(built(equation, code, order=order, law=law), rows)
    loss = surrogate.loss(rows, generator=generator())
    assert loss.shape == (24,)
    assert torch.equal(loss, surrogate.loss(rows, generator=generator()))
    other = ready(built(equation, code, order=order, law=law, seed=1), rows)
    assert not torch.equal(loss, other.loss(rows, generator=generator()))
    loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in surrogate.parameters())
    before = torch.get_rng_state()
    one, two, three = (surrogate.draw(rows.theta, rows.x, generator=generator(s)) for s in (0, 0, 1))
    assert one.shape == (24, *equation.observables["u"].shape)
    assert torch.equal(one, two)
    assert torch.equal(one[:, 0], rows.x["initial"])
    assert float((one - three)[:, 1:].abs().amin(0).max()) > 0
    assert torch.equal(surrogate.predict(rows.theta, rows.x), surrogate.predict(rows.theta, rows.x))
    assert torch.equal(before, torch.get_rng_state())


def distance(equation, draw, frame):
    """(u - mean)^T C^-1 (u - mean) / 15 of 20 draws for each of 40 starts, on average; 1 for the exact law.

    C is the exact covariance in the 15 directions that are driven, whose variances go over five decades: a wrong one
    in any direction counts as much as in the largest.
    """
    rows = rows_of(equation, 40, seed=7)
    many = Batch(rows.theta.repeat(20, 1), {"initial": rows.x["initial"].repeat(20, 1, 1)})
    mean, covariance = equation.law(rows.theta, rows.x["initial"], equation.times[frame])
    values, vectors = torch.linalg.eigh(covariance)
    off = draw(many)[:, frame, 0].double().unflatten(0, (20, 40)) - mean[:, 0]
    z = torch.einsum("nbi,bij->nbj", off, vectors[..., 1:]) / values[:, 1:].sqrt()
    return float(z.square().mean())


@pytest.mark.parametrize("law", ["joint", "mixture"])
def test_draws_follow_the_law_of_a_linear_equation(law, fits):
    equation, surrogate = world(), fits[law].surrogate

    def drawn(rows):
        return surrogate.sample(rows.theta, rows.x, generator=generator(5))

    faults = {
        "others' parameters": lambda rows: drawn(Batch(rows.theta.flip(0), rows.x)),
        "another start": lambda rows: drawn(Batch(rows.theta, {"initial": rows.x["initial"].flip(0)})),
        "the mean": lambda rows: surrogate.predict(rows.theta[:40], {"initial": rows.x["initial"][:40]}).repeat(
            20, 1, 1, 1
        ),
        "a frame late": lambda rows: drawn(rows).roll(1, 1),
    }
    for frame in (1, 5):
        assert distance(equation, drawn, frame) == pytest.approx(1.0, abs=0.25)
    found = {name: distance(equation, fault, 2) for name, fault in faults.items()}
    assert all(abs(value - 1) > 0.35 for value in found.values()), found


def test_a_fit_is_read_back_and_says_how_unlike_its_draws_are(fits):
    rows, again = rows_of(world()), load_fit(fits["joint"].folder)
    one, two = (f.surrogate.draw(rows.theta, rows.x, generator=generator(2)) for f in (fits["joint"], again))
    assert torch.equal(one, two)
    assert again.record["spread_skill"] == pytest.approx(1.0, abs=0.35)
    assert f"draws {again.record['spread_skill']:.2f} times as unlike as they should be" in repr(again)


def test_draws_that_are_too_alike_are_widened_and_said_to_be(store, tmp_path, monkeypatch):
    """A law that draws half as far from its mean as it should: its sds are told, and what is missing is put back."""
    from sciinf.emulators.tokens import law as laws

    surrogate, equation = built(world(), law=MixtureTokens()), world()
    monkeypatch.setattr(laws._Independent, "_parts", _narrow(laws._Independent._parts))
    with pytest.warns(UserWarning, match=r"too alike, and are widened"):
        fit = train(surrogate, store, tmp_path / "fit", recipe=Recipe(epochs=25, batch=30), progress=False)
    assert fit.record["spread_skill"] < 0.7
    rows = rows_of(equation, 400, seed=11)
    off = rows.x["u"] - fit.surrogate.predict(rows.theta, rows.x)

    def size(found):
        return float(
            (found - fit.surrogate.predict(rows.theta, rows.x))[:, 1:].square().mean() / off[:, 1:].square().mean()
        )

    assert size(fit.surrogate.sample(rows.theta, rows.x, generator=generator(1))) < 0.5
    assert size(fit.surrogate.draw(rows.theta, rows.x, generator=generator(1))) == pytest.approx(1.0, abs=0.35)


def _narrow(parts):
    def found(self, given, condition):
        share, mean, log_sd = parts(self, given, condition)
        return share, mean, log_sd - (0.0 if torch.is_grad_enabled() else 0.7)

    return found


def test_an_emulator_draws_solutions(fits):
    equation = world()
    emulator = Emulator(load_fit(fits["mixture"].folder), equation)
    theta = equation.prior.sample(400, generator=generator())
    one, two = (source(theta, generator=generator(1)) for source in (emulator, equation))
    assert torch.equal(one["initial"], two["initial"])
    assert emulator.random
    for frame in (1, 5):
        ratio = one["u"][:, frame].square().mean() / two["u"][:, frame].square().mean()
        assert float(ratio) == pytest.approx(1.0, abs=0.2)


def test_it_goes_on_beyond_the_frames_where_they_follow_each_other(fits):
    rows, surrogate = rows_of(world(), 40), fits["joint"].surrogate
    found = surrogate.rollout(rows.theta, rows.x, 12, generator=generator())
    assert found.shape == (40, 12, 1, 16)
    assert bool(found.isfinite().all())
    noise = torch.randn(40, 12 * surrogate.law.noise, generator=generator())
    short, long = (surrogate.from_noise(noise[:, :n], rows.theta, rows.x) for n in (surrogate.noise, None))
    assert torch.equal(short, long[:, :5])
    assert long.shape == (40, 12, 1, 16)
    once = ready(built(world(), order=AtOnce()), rows)
    assert once.rollout(rows.theta, rows.x, 3, generator=generator()).shape == (40, 3, 1, 16)
    with pytest.raises(ValueError, match=r"5 frames were learned at once, and 6 are requested: use Frames\(\)"):
        once.rollout(rows.theta, rows.x, 6, generator=generator())


class Recalled(LearnedLaw):
    """Draws what it was trained on, block after block, and keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.seen, self.shown = [], []

    def loss(self, tokens, given, condition, *, generator):
        self.seen.append((tokens, given))
        return tokens.sum((1, 2)) + 0 * condition.sum()

    noise = 1

    def from_noise(self, noise, given, condition, *, generator=None):
        tokens, before = self.seen[len(self.shown)]
        self.shown.append((before, given))
        return tokens


@pytest.mark.parametrize(
    ("order", "index", "fields"),
    [
        (Frames(1), 0, 0),
        (Frames(2), 0, 1),
        (Frames(2, context=3), 0, 1),
        (Frames(3, context=2), -1, 0),
        (AtOnce(), None, 1),
    ],
)
def test_what_training_shows_is_what_drawing_shows(order, index, fields, monkeypatch):
    """Blocks of a solution as training has them, drawn again in order, are that solution, to the last frame."""
    draw, start = generator(), [] if index is None else [Frame(index)]
    specs = {"initial": Observable((2, 8, 4)), "hill": Observable((1, 8, 4)), "u": Observable((7, 2, 8, 4))}
    x = {name: torch.randn(5, *spec.shape, generator=draw).cumsum(1) for name, spec in specs.items()}
    if index == 0:
        x["initial"] = x["u"][:, 0]
    rows = Batch(torch.rand(5, 1, generator=draw), x)
    prior = Prior(rate=torch.distributions.Uniform(0.0, 1.0))
    given = [*start, *[Field("hill")] * fields]
    surrogate = ready(Generator(prior, specs, Patches(2), order=order, given=given, network=NET, pairs=1), rows)
    surrogate.law = law = Recalled()
    block, unknown = surrogate.block, surrogate.unknown
    for k in range(0, unknown - block + 1, block):
        monkeypatch.setattr(torch, "randint", lambda high, size, k=k, **_: torch.full(size, k))
        surrogate.loss(rows, generator=generator())
    frames = len(law.seen) * block
    found = surrogate.rollout(rows.theta, rows.x, frames, generator=generator())
    assert torch.allclose(found, x["u"][:, 7 - unknown :][:, :frames], atol=0.01)
    assert all(torch.allclose(*pair, atol=0.01) for pair in law.shown)
    assert float((found - x["u"].flip(1)[:, :frames]).abs().max()) > 0.1


def test_a_law_that_is_right_on_average_and_does_not_follow_a_parameter_says_so(recwarn):
    """Draws that know nothing of the forcing: of its middle they are right, and so they are on average."""
    equation = world()
    law = ready(built(equation), rows_of(equation, 4_000))
    for parameter in law.law.network.out.parameters():
        torch.nn.init.zeros_(parameter)
    told = law.adjust(lambda: iter([rows_of(equation, 200, seed=5)]))
    assert told["spread_skill"] == pytest.approx(1.0, abs=0.15)
    said = [str(one.message) for one in recwarn]
    assert any("too alike where 'forcing' is high" in one for one in said)
    assert not any("'viscosity'" in one for one in said)


def test_a_law_that_misses_half_of_the_variance_is_widened_even_if_one_row_makes_it():
    """One of twenty held-out solutions lies six times as far off as it may: too few to tell by standard errors."""
    equation = world(viscosity=td.LogNormal(-4.6, 1e-4), forcing=td.Uniform(0.7, 0.7001))
    law, rows = ready(built(equation), rows_of(equation, 4_000)), rows_of(equation, 20, seed=100)
    for parameter in law.law.network.out.parameters():
        torch.nn.init.zeros_(parameter)
    u = rows.x["u"].clone()
    for frame, time in enumerate(TIMES[1:], 1):
        mean = equation.law(rows.theta[:1], rows.x["initial"][:1], time)[0][0].float()
        u[0, frame] = mean + 6 * (u[0, frame] - mean)
    law.adjust(lambda: iter([Batch(rows.theta, {**rows.x, "u": u})]))
    assert float(law.missing[1:].min()) > 0.3


def test_a_right_law_is_not_widened_by_chance(recwarn):
    """Of eight sets of held-out rows one at most: by chance two or more once in 17 times, for each is 1 in 20."""
    equation, widened = world(viscosity=td.LogNormal(-4.6, 1e-4), forcing=td.Uniform(0.7, 0.7001)), 0
    law = ready(built(equation), rows_of(equation, 4_000))
    for parameter in law.law.network.out.parameters():
        torch.nn.init.zeros_(parameter)  # innovations are white then, and 0 is what a right network says
    for seed in range(8):
        told = law.adjust(lambda seed=seed: iter([rows_of(equation, 60, seed=100 + seed)]))
        widened += float(law.missing.max()) > 0
        assert told["spread_skill"] == pytest.approx(1.0, abs=0.2)
    assert widened <= 1
    assert not [one for one in recwarn if "hardly follows" in str(one.message)]
    law.adjust(lambda: iter([rows_of(equation, 1)]))  # nothing can be told from one
    assert float(law.missing.max()) == 0


def test_fields_that_stay_are_seen(tmp_path):
    """u is the field that stays plus noise of sd 0.1: without it draws would be off by its sd, 1."""
    prior, draw = Prior.none(), generator()
    fields = {"hill": Observable((2, 16)), "u": Observable((1, 1, 16))}
    hill = torch.randn(600, 2, 16, generator=draw)
    u = (hill[:, 1:] + 0.1 * torch.randn(600, 1, 16, generator=draw))[:, None]
    rows = Batch(torch.empty(600, 0), {"hill": hill, "u": u})
    surrogate = Generator(prior, fields, Patches(2), given=[Field("hill")], law=MixtureTokens(), network=NET)
    ready(surrogate, rows.rows(slice(0, 500)))
    steps = torch.optim.Adam(surrogate.parameters(), lr=3e-3)
    for _ in range(150):
        steps.zero_grad()
        surrogate.loss(rows.rows(slice(0, 500)), generator=generator()).mean().backward()
        steps.step()
    fresh = rows.rows(slice(500, 600))
    off = surrogate.draw(fresh.theta, fresh.x, generator=generator(3)) - fresh.x["u"]
    assert float(off.square().mean().sqrt()) < 0.3
    assert float((off + fresh.x["u"] - fresh.x["u"].flip(0)).square().mean().sqrt()) > 0.9  # the fault: others' hills


def test_members_have_no_order():
    """u is what the second of three members is, always. Shown in any order, the law cannot know which one it is."""
    few = torch.randn(400, 3, 16, generator=generator())
    fields = {"few": Observable((3, 16)), "u": Observable((1, 1, 16))}
    rows = Batch(torch.empty(400, 0), {"few": few, "u": few[:, None, 1:2]})
    turned = Batch(rows.theta, {**rows.x, "few": few[:, [2, 0, 1]]})
    losses = {}
    for kind in (Members, Field):
        surrogate = ready(Generator(Prior.none(), fields, given=[kind("few")], law=MixtureTokens(), network=NET), rows)
        losses[kind] = [float(surrogate.loss(shown, generator=generator()).mean().detach()) for shown in (rows, turned)]
    assert losses[Members][1] == pytest.approx(losses[Members][0], rel=0.1)
    assert losses[Field][1] > 2 * losses[Field][0]


def test_fields_without_space_or_with_edges_or_a_start_before_the_first_frame():
    prior, draw = Prior(rate=torch.distributions.Uniform(0.1, 1.0)), generator()
    fields = {"initial": Observable((3,)), "u": Observable((4, 3))}
    rows = Batch(
        torch.rand(20, 1, generator=draw), {n: torch.randn(20, *o.shape, generator=draw) for n, o in fields.items()}
    )
    surrogate = ready(Generator(prior, fields, given=[Frame(-1)], order=Frames(1), network=NET), rows)
    assert surrogate.draw(rows.theta, rows.x, generator=generator()).shape == (20, 4, 3)
    surrogate.check_times((0.5, 1.0, 1.5, 2.0))
    edged = {"initial": Observable((1, 16)), "u": Observable((4, 1, 16))}
    ramp = torch.linspace(-2, 2, 16) + 0.1 * torch.randn(20, 4, 1, 16, generator=draw)
    rows = Batch(rows.theta, {"initial": ramp[:, 0], "u": ramp})
    surrogate = Generator(prior, edged, network=NET)
    assert not surrogate.edges
    assert ready(surrogate, rows).edges


@pytest.mark.parametrize("code", [Patches(1), Pod(8, width=4), Pod(4, width=4)])
def test_fields_without_space_by_every_code(code):
    """Each frame is a token, or several; the one that is known stays what it is."""
    specs = {"initial": Observable((9,)), "u": Observable((6, 9))}
    u = torch.randn(40, 6, 9, generator=generator()).cumsum(1)
    rows = Batch(torch.rand(40, 1, generator=generator()), {"initial": u[:, 0], "u": u})
    prior = Prior(rate=td.Uniform(0.0, 1.0))
    law = ready(Generator(prior, specs, code, network=NET), rows)
    assert law.by_frame == (not isinstance(code, Pod) or code.rank == 4)
    assert law.loss(rows, generator=generator()).shape == (40,)
    assert law.draw(rows.theta, rows.x, generator=generator()).shape == (40, 6, 9)
    denoise, fields, _ = law.asked(rows.theta[:1], {"initial": u[:1, 0]})
    noise = torch.randn(7, law.noise, generator=generator())
    assert fields(denoise(noise, torch.tensor(1.0))).shape == (7, 5, 9)


def test_fields_far_from_zero_and_of_tiny_units_are_judged_like_others():
    """Pressure about 101,325 that varies by 5, and numbers of 1e-20: the frame that is given alone counts as known."""
    prior = Prior(rate=td.Uniform(0.0, 1.0))
    specs = {"initial": Observable((1, 8)), "u": Observable((3, 1, 8))}
    found = []
    for level, size in ((0.0, 1.0), (101_325.0, 5.0), (0.0, 1e-20)):
        u = level + size * torch.randn(60, 3, 1, 8, generator=generator()).cumsum(1)
        rows = Batch(torch.rand(60, 1, generator=generator()), {"initial": u[:, 0], "u": u})
        law = ready(Generator(prior, specs, network=NET), rows)
        for parameter in law.law.network.out.parameters():
            torch.nn.init.zeros_(parameter)
        found.append(law.adjust(lambda rows=rows: iter([rows]))["spread_skill"])
        assert float(law.missing[0].max()) == 0
    assert found[1] == pytest.approx(found[0], rel=0.05)
    assert found[2] == pytest.approx(found[0], rel=0.05)


def test_several_are_trained_at_once(store, tmp_path):
    members = [built(world(), law=MixtureTokens(), seed=k) for k in range(2)]
    one, two = train_ensemble(members, store, tmp_path / "both", recipe=Recipe(epochs=2, batch=60), progress=False)
    rows = rows_of(world())
    found = [f.surrogate.sample(rows.theta, rows.x, generator=generator()) for f in (one, two)]
    assert not torch.allclose(*found, atol=1e-2)


def test_what_does_not_fit_is_refused():
    prior, fields = world().prior, world().observables
    times = built(world())
    for make, says in (
        (lambda: Generator(prior, fields, target="v"), "no observable 'v'"),
        (lambda: Generator(prior, fields, given=[Frame(0, "w")]), "no observable 'w'"),
        (
            lambda: Generator(prior, fields, given=[Frame(0), Frame(0)]),
            "a Generator starts from one frame, and 2 were given",
        ),
        (lambda: Generator(prior, fields, given=[], order=Frames(1)), "there is none to go on from: give a Frame"),
        (lambda: Generator(prior, {**fields, "initial": Observable((2, 16))}), "has 2 channels"),
        (lambda: Generator(prior, fields, Patches(5)), "do not divide"),
        (lambda: Frame(1), "is the first, 0, or the one before it, -1"),
        (lambda: Frames(0), "block"),
        (lambda: MixtureTokens(0), "components"),
        (lambda: times.check_times((0.1, 0.2)), r"at 0.1: give the generator Frame\(-1\)"),
        (lambda: times.check_times((0.0, 0.1, 0.3)), "evenly spaced"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    Generator(prior, fields, network=NET).check_times((0.0, 0.1, 0.3))  # all at once, whenever they are
    with pytest.raises(ValueError, match="one frame, which is the one that is given"):
        Generator(prior, {**fields, "u": Observable((1, 1, 16))})
    with pytest.raises(TypeError, match=r"a Frame, Field, Members, Sensors or Words, and got 'initial'"):
        Generator(prior, fields, given=["initial"])
    decay = Decay()
    assert Generator(decay.prior, decay.observables, network=NET).given == ("initial",)
