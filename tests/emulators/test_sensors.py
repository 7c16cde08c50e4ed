"""What sensors see of a field: draws given that, against the exact law of a linear equation with random forcing."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf import Recipe, load_fit, simulate, train
from sciinf.core import Batch, Observable
from sciinf.emulators import Emulator, Frame, Generator, SensorReadings, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames, Pod
from sciinf.emulators.tokens.assimilated import guessed
from sciinf.networks.diffusion.events import Event
from simulators.pde.forced_burgers import ForcedBurgers

TIMES, SD, SEEN = (0.0, 0.25, 0.5), 0.05, 6
NET = TokenTransformer(32, 3, heads=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def world():
    return ForcedBurgers(16, TIMES, steepening=0.0, longest=0.25)


def built(most=SEEN, **told):
    equation = world()
    given = [Frame(0), SensorReadings(most, sd=SD)]
    return Generator(equation.prior, equation.observables, given=given, network=NET, **told)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sensors")


@pytest.fixture(scope="module")
def fit(folder):
    store = simulate(world(), folder / "store", 1_200, seed=0, progress=False)
    return train(built(), store, folder / "fit", recipe=Recipe(epochs=20, batch=50), progress=False)


def seen_rows(count, seed=7):
    """Starts, solutions, and what sensors see of them."""
    equation = world()
    theta = equation.prior.sample(count, generator=generator(seed))
    x = equation(theta, generator=generator(seed + 1))
    return Batch(theta, x), SensorReadings(SEEN, sd=SD).shown(x["u"], 1, generator(seed + 2))


def exact(rows, seen):
    """Means and sds of both frames, (batch, frame, point), of a start and what sensors see."""
    equation, out = world(), []
    for k in range(len(rows)):
        theta, initial = rows.theta[k : k + 1], rows.x["initial"][k : k + 1]
        (early, c), (late, d) = (equation.law(theta, initial, t) for t in TIMES[1:])
        unit = torch.eye(16, dtype=torch.float64)[:, None]
        decay = (-theta[0, 0].double() * equation.grid.squared * (TIMES[2] - TIMES[1])).exp()
        on = equation.grid.back(equation.grid.transformed(unit) * decay)[:, 0]
        covariance = torch.cat([torch.cat([c[0], c[0] @ on], 1), torch.cat([on.mT @ c[0], d[0]], 1)])
        mean = torch.cat([early[0, 0], late[0, 0]])
        at = seen["sensors_mask"][k, 1:, 0].flatten().nonzero()[:, 0]
        y = seen["sensors"][k, 1:, 0].flatten()[at].double()
        gain = torch.linalg.solve(covariance[at][:, at] + SD**2 * torch.eye(len(at)), covariance[at]).mT
        left = covariance - gain @ covariance[at]
        out.append(torch.stack([mean + gain @ (y - mean[at]), left.diagonal().sqrt()]).unflatten(1, (2, 16)))
    return torch.stack(out).unbind(1)


def found(surrogate, rows, given, members=32):
    many = {name: value.repeat_interleave(members, 0) for name, value in given.items()}
    theta = rows.theta.repeat_interleave(members, 0)
    drawn = surrogate.sample(theta, many, generator=generator(5))[:, 1:, 0].unflatten(0, (len(rows), members))
    return drawn.mean(1), drawn.std(1)


def off_and_spread(middle, spread, mean, sd):
    return float(((middle - mean) / sd).square().mean().sqrt()), float((spread / sd).log().mean().exp())


@pytest.mark.slow
def test_draws_given_what_sensors_see_follow_the_exact_law(fit):
    """Means of 32 draws, in sds of the exact law (.4 was found), and sds over its (1.2); trainings differ by a tenth.

    A mean of 32 exact draws is off by .18 sds. Without what sensors see means are off by 2.4.
    """
    rows, seen = seen_rows(40)
    mean, sd = exact(rows, seen)
    start = {"initial": rows.x["initial"]}
    off, wide = off_and_spread(*found(fit.surrogate, rows, start | seen), mean, sd)
    assert off < 0.6
    assert 0.9 < wide < 1.4
    faults = {
        "nothing seen": start,
        "others' sensors": start | {name: value.flip(0) for name, value in seen.items()},
        "a point aside": start | {name: value.roll(1, -1) for name, value in seen.items()},
        "a frame late": start | {name: value.roll(1, 1) for name, value in seen.items()},
    }
    for name, fault in faults.items():
        assert off_and_spread(*found(fit.surrogate, rows, fault), mean, sd)[0] > 0.9, name


@pytest.mark.slow
def test_where_nothing_is_seen_draws_follow_the_law_of_the_start(fit):
    """Means do; the sds of so small a network are nearer to those where something is seen (.75 was found)."""
    rows, seen = seen_rows(40)
    nothing = {name: torch.zeros_like(value) for name, value in seen.items()}
    start = {"initial": rows.x["initial"]}
    off, wide = off_and_spread(*found(fit.surrogate, rows, start), *exact(rows, nothing))
    assert off < 0.5
    assert 0.6 < wide < 1.25
    drawn = [fit.surrogate.draw(rows.theta, start | more, generator=generator()) for more in ({}, nothing)]
    assert torch.equal(*drawn)
    assert Emulator(fit, world())(rows.theta, generator=generator())["u"].shape == (40, 3, 1, 16)


@pytest.mark.slow
def test_the_record_and_what_is_read_back(fit, folder):
    """Held-out rows are shown to sensors, too: few points and many are judged apart."""
    assert 0.6 < fit.record["spread_skill"] < 0.9 or 1.1 < fit.record["spread_skill"] < 1.7  # the half that is worst
    rows, seen = seen_rows(5)
    again = load_fit(folder / "fit").surrogate
    given = {"initial": rows.x["initial"]} | seen
    draws = [one.draw(rows.theta, given, generator=generator()) for one in (fit.surrogate, again)]
    assert torch.equal(*draws)


@pytest.mark.slow
def test_an_event_is_asked_about_where_sensors_see(fit):
    """That the last frame is high at a point that is seen to be low, or high: more often than not, or hardly ever."""
    rows, _ = seen_rows(1)
    log_p = []
    for value in (-2.0, 2.0):
        seen = {"sensors": torch.full((1, 3, 1, 16), value), "sensors_mask": torch.zeros(1, 3, 1, 16) > 0}
        seen["sensors_mask"][0, 2, 0, 5] = True
        event = Event(lambda u: u[:, -1, 0, 5], 0.0)
        given = {"initial": 0 * rows.x["initial"]} | seen
        log_p.append(conditioned(fit.surrogate, rows.theta, given, event, 80, generator=generator()).log_evidence)
    assert log_p[0] < -1.5
    assert log_p[1] > -0.3


def test_a_law_that_does_not_hold_to_what_is_seen_says_so():
    rows, _ = seen_rows(40)
    surrogate = built()
    surrogate.standardise(lambda: iter([rows]))
    surrogate.conditions.say_what_is_not_held(  # right up to noise
        surrogate.conditions.shown(rows.x, rows.x["u"], generator()), rows.x["u"][None], surrogate.target_sd
    )
    with pytest.warns(UserWarning, match=r"draws are 0\.\d+ sds of a frame off .* do not hold to what was seen"):
        surrogate.conditions.say_what_is_not_held(
            surrogate.conditions.shown(rows.x, rows.x["u"], generator()), rows.x["u"].flip(1)[None], surrogate.target_sd
        )


def test_the_linear_guess_is_the_posterior_mean_of_a_linear_law():
    """Six points see twelve numbers: as many steps as points are exact, two are nearer than one."""
    draw = generator(3)
    turn, shift = torch.randn(9, 12, generator=draw).double(), torch.randn(9, generator=draw).double()
    y, mask = torch.randn(5, 9, generator=draw).double(), torch.rand(5, 9, generator=draw) < 0.6
    precision = mask / (0.1 + torch.rand(9, generator=draw).double())

    def guess(steps):
        return guessed(lambda z: z @ turn.mT + shift, y - shift, precision, torch.zeros(5, 12).double(), steps=steps)

    exact = torch.stack(
        [
            torch.linalg.solve(torch.eye(12).double() + turn.mT @ (p[:, None] * turn), turn.mT @ (p * (one - shift)))
            for p, one in zip(precision, y, strict=True)
        ]
    )
    assert torch.allclose(guess(9), exact, atol=1e-4)  # a row is done at a part in 1e8 of its squares
    one, two = (float((guess(steps) - exact).norm()) for steps in (1, 2))
    assert two < one < float(exact.norm())
    nothing = guessed(lambda z: z @ turn.mT + shift, y, 0 * precision, torch.zeros(5, 12).double())
    assert torch.equal(nothing, torch.zeros(5, 12).double())


@pytest.mark.slow
def test_the_frame_that_is_known_tells_nothing_new(fit):
    rows, seen = seen_rows(10)
    more = {name: value.clone() for name, value in seen.items()}
    more["sensors"][:, 0], more["sensors_mask"][:, 0] = rows.x["initial"], True
    start = {"initial": rows.x["initial"]}
    assert torch.equal(*(fit.surrogate.draw(rows.theta, start | one, generator=generator()) for one in (seen, more)))


def test_places_are_drawn_evenly_and_none_twice():
    """Of 2 x 16 numbers 0 to 6 are shown: each in 3/32 of the rows, within 4 sds of the count."""
    shown = SensorReadings(SEEN, sd=0.0).shown(torch.ones(4_000, 3, 1, 16), 1, generator())
    count = shown["sensors_mask"].flatten(1).sum(1)
    assert torch.equal(shown["sensors"], shown["sensors_mask"].float())
    assert torch.allclose(count.bincount(minlength=7) / 4_000, torch.full((7,), 1 / 7), atol=0.025)
    often = shown["sensors_mask"][:, 1:].float().mean(0)
    assert torch.allclose(often, torch.full_like(often, 3 / 32), atol=0.02)
    assert not shown["sensors_mask"][:, 0].any()


def test_few_rows_are_judged_together():
    surrogate = built()
    seen = seen_rows(40)[1]
    halves = [surrogate.conditions.halves({name: x[:n] for name, x in seen.items()}, n) for n in (20, 40)]
    assert [list(map(len, some)) for some in halves] == [[20], [20, 20]]


@pytest.mark.slow
def test_by_frame_and_with_no_start():
    """Fields without space, whose frames are tokens: each is told what its own sensors see."""
    prior, fields = world().prior, {"u": Observable((6, 2))}
    surrogate = Generator(prior, fields, given=[SensorReadings(5)], network=NET)
    x = {"u": torch.randn(30, 6, 2, generator=generator()).cumsum(1)}
    rows = Batch(prior.sample(30, generator=generator()), x)
    surrogate.standardise(lambda: iter([rows]))
    assert surrogate.by_frame
    assert surrogate.loss(rows, generator=generator()).shape == (30,)
    seen = SensorReadings(5).shown(x["u"], 0, generator(1))
    assert int(seen["sensors_mask"].sum((1, 2)).max()) == 5
    assert surrogate.draw(rows.theta, seen, generator=generator()).shape == (30, 6, 2)
    off, blind = (
        float((surrogate.predict(rows.theta, given) - x["u"])[seen["sensors_mask"]].square().sum())
        for given in (seen, {})
    )
    assert off < 0.5 * blind  # by the linear guess, before any training


def test_what_does_not_fit_is_refused():
    equation = world()
    rows, seen = seen_rows(4)
    for make, says in (
        (lambda: SensorReadings(0), "most"),
        (lambda: SensorReadings(sd=-1.0), "got -1"),
        (lambda: SensorReadings(sd=math.nan), "one number"),
        (
            lambda: Generator(equation.prior, equation.observables, given=[SensorReadings(name="initial")]),
            "mean two things",
        ),
        (lambda: built(order=Frames(1)), "all frames at once"),
        (lambda: built(code=Pod(8)), "pieces of all frames"),
        (
            lambda: Generator(equation.prior, equation.observables, given=[SensorReadings(), SensorReadings()]),
            "2 were given",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    surrogate, start = built(), {"initial": rows.x["initial"]}
    for given, says in (
        ({"sensors": seen["sensors"]}, "'sensors_mask'] is missing"),
        ({"sensors_mask": seen["sensors_mask"]}, "'sensors'] is missing"),
        ({**seen, "sensors_mask": torch.ones(4, 3, 1, 16)}, "see 32 points, and training has shown 6 at most"),
        ({**seen, "sensors_mask": seen["sensors_mask"] * 0.5}, "True or False"),
        ({**seen, "sensor": seen["sensors"]}, "'sensor'] is given, which this generator does not know"),
        ({"words": torch.ones(4, 3)}, "'words'] is given, which this generator does not know"),
        ({**seen, "sensors": seen["sensors"][:, 1:]}, r"'sensors' has shape \(4, 2, 1, 16\)"),
        ({**seen, "sensors_mask": seen["sensors_mask"][..., :8]}, r"'sensors_mask' has shape \(4, 3, 1, 8\)"),
        ({**seen, "sensors": seen["sensors"] / 0}, "not finite"),
    ):
        with pytest.raises(ValueError, match=says):
            surrogate.draw(rows.theta, start | given, generator=generator())
