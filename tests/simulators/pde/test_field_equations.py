"""The contract of differential equations: every `FieldEquation` below simulators/ is found by path and judged alike."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math

import pytest
import torch
from simulators.test_contract import FOLDER, generator, loaded, simulator_files
from torch import distributions as td

from sciinf.campaigns.store import Store
from sciinf.core import Prior, source_hash
from sciinf.core.code import only_code
from sciinf.simulators.dynamics.field_equation import SOLUTION, Evolution, FieldEquation, column, described
from sciinf.simulators.dynamics.grid import BoxGrid
from sciinf.simulators.dynamics.random_field import RandomField, Waves

ROWS = 3
HALVED = 1e-4  # of a solution's norm, by which it may change if steps are half as long
ALONE = 1e-5  # ... if it is solved alone
LEFT, SEEN = 1e-3, 0.03  # of du/dt's norm: what may be left of the equation on close frames, and what must be of others
CLOSE = 1e-4  # between frames, of the time from the first to the last


def equation_files(folder=FOLDER):
    """Simulators with a file that mentions the module of field equations."""
    texts = {p: [f.read_text() for f in ([p] if p.is_file() else p.rglob("*.py"))] for p in simulator_files(folder)}
    return [path for path, parts in texts.items() if any("field_equation" in part for part in parts)]


@pytest.fixture(params=equation_files(), ids=lambda p: str(p.relative_to(FOLDER)))
def equation(request):
    found = loaded(request.param)
    if not isinstance(found, FieldEquation):
        pytest.skip(f"{request.param.name} is no field equation")
    return found


def rebuilt(equation, **arguments):
    """What the file makes with the defaults of the class, but for these arguments."""
    return type(equation)(**arguments)


def argument(equation, name):
    """A parameter of the constructor; None if there is none of that name."""
    return inspect.signature(type(equation)).parameters.get(name)


def begun(equation, seed=0, rows=ROWS):
    """theta and what solutions start from."""
    theta = equation.prior.sample(rows, generator=generator(seed)).double()
    return theta, equation.start(theta, generator=generator(seed + 1))


@functools.cache
def solved(equation):
    """theta, what solutions start from, and the solutions."""
    theta, given = begun(equation)
    return theta, given, equation.solve(theta, given)


@functools.cache
def closely(equation):
    """An equation with three frames close to each other half-way (itself where there is no time), and as `solved`."""
    if len(equation.times) == 1:
        return equation, *solved(equation)
    first, last = equation.times[0], equation.times[-1]
    close = rebuilt(equation, times=tuple(first + (last - first) * (0.5 + CLOSE * k) for k in (-1, 0, 1)))
    return close, *solved(close)


def difference(one, other):
    """Of solutions, relative, where it is largest."""
    return float(((one - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1)).max())


def by_channel(frames):
    """Norms of each channel."""
    return frames.transpose(0, 2).flatten(1).norm(dim=1)


def left(equation, frames, theta, given):
    """Norms of the residual's channels, in units of du/dt's, or of what is left of 0 where there is no time."""
    if len(equation.times) == 1:
        scale = by_channel(equation.residual(torch.zeros_like(frames), theta, given))
    else:
        scale = by_channel((frames[:, 2:] - frames[:, :-2]) / (equation.times[2] - equation.times[0]))
    return by_channel(equation.residual(frames, theta, given)) / scale


# --- what is checked ------------------------------------------------------------------------------------------------


def check_layout(equation):
    theta, given, found = solved(equation)
    space = equation.grid.shape
    spec = equation.observables[SOLUTION]
    assert found.shape == (ROWS, *spec.shape)
    assert (spec.shape[0], spec.shape[2:]) == (len(equation.times), space)
    assert (spec.dims[:2], len(spec.dims)) == (("time", "channel"), len(spec.shape))
    assert all(0 <= before < after for before, after in itertools.pairwise((*equation.times, math.inf)))
    assert set(given) == set(equation.given) == set(equation.observables) - {SOLUTION}
    for name, start in equation.given.items():
        assert given[name].shape == (ROWS, *start.shape), name
        assert start.shape[1:] == space, name
        assert equation.observables[name] == start, name
    assert bool(found.isfinite().all())
    short = equation if len(equation.times) == 1 else rebuilt(equation, times=equation.times[:2])
    called = short(theta, generator=generator(1))
    assert all(torch.equal(called[k], given[k].to(called[k].dtype)) for k in given), "called, it starts otherwise"
    assert torch.equal(called[SOLUTION], found[:, :2].to(called[SOLUTION].dtype)), "called, it solves otherwise"


def check_first_frame(equation):
    """Where there is one at 0, something that is given is in it, channel for channel."""
    _, given, found = solved(equation)
    if len(equation.times) == 1 or equation.times[0] > 0 or not given:
        return

    def shown(field):
        off = (field[:, :, None] - found[:, :1].to(field)).abs().transpose(0, 2).flatten(2).amax(2)
        return bool((off.amin(0) <= 1e-9 * field.abs().max()).all())

    assert any(shown(field) for field in given.values()), "the first frame is nothing that is given"


def check_frames_of_their_own(equation):
    """What is at a time is so whether or not it is asked for at others."""
    theta, given, found = solved(equation)
    if len(equation.times) > 1:
        one = rebuilt(equation, times=equation.times[1:2]).solve(theta, given)
        assert difference(one, found[:, 1:2]) < ALONE


def check_random(equation):
    theta = equation.prior.sample(1, generator=generator()).double().expand(2, -1)
    one, again, other = (equation.start(theta, generator=generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[k], again[k]) for k in one), "the same generator gave another start"
    assert equation.random == any(not torch.equal(one[k], other[k]) for k in one)
    assert equation.random == any(not torch.equal(one[k][0], one[k][1]) for k in one)


def check_rows_alone(equation):
    theta, given, found = solved(equation)
    alone = equation.solve(theta[1:2], {name: value[1:2] for name, value in given.items()})
    assert difference(alone, found[1:2]) < ALONE


def check_halved_steps(equation):
    """Of an equation that takes its longest step as `longest`, and keeps it under that name."""
    if argument(equation, "longest") is not None:
        theta, given, found = solved(equation)
        halved = rebuilt(equation, longest=equation.longest / 2).solve(theta, given)
        assert 0 < difference(halved, found) < HALVED


def check_residual(equation):
    close, theta, given, frames = closely(equation)
    assert close.residual(frames, theta, given).shape[2:] == frames.shape[2:]
    assert bool((left(close, frames, theta, given) < LEFT).all()), left(close, frames, theta, given)


def check_residual_of_others(equation):
    """Frames that move a tenth too fast, and such as have a tenth of noise that does not move."""
    close, theta, given, frames = closely(equation)
    if len(close.times) > 1:
        fast = frames[:, 1:2] + 1.1 * (frames - frames[:, 1:2])
        assert bool((left(close, fast, theta, given) > SEEN).all())
    noise = torch.randn(frames[:, :1].shape, generator=generator(), dtype=frames.dtype)
    spread = frames.transpose(0, 2).flatten(1).std(1).reshape(-1, *[1] * (frames.ndim - 3))
    assert bool((left(close, frames + 0.1 * spread * noise, theta, given) > SEEN).any())


def check_slopes(equation):
    """Of a weighted sum of residuals, along the trajectory and along theta, against differences."""
    close, theta, given, frames = closely(equation)
    weights, one, other = (
        torch.randn(shape, generator=generator(k), dtype=torch.float64)
        for k, shape in enumerate((close.residual(frames, theta, given).shape, frames.shape, theta.shape))
    )
    for which, way in enumerate((one * frames.std(), 0.1 * other * theta.abs())):

        def total(moved, which=which, way=way):
            at = [frames.double(), theta]
            at[which] = at[which] + moved * way
            return (weights * close.residual(at[0], at[1], given)).sum()

        moved = torch.zeros((), dtype=torch.float64, requires_grad=True)
        value = total(moved)
        slope = torch.autograd.grad(value, moved)[0] if value.requires_grad else torch.zeros_like(moved)
        expected = (total(1e-5) - total(-1e-5)) / 2e-5
        assert which == 1 or slope != 0  # what is given may tell all that parameters do
        assert torch.isclose(slope, expected, rtol=1e-4), (float(slope), float(expected))


CHECKS = (
    check_layout,
    check_first_frame,
    check_frames_of_their_own,
    check_random,
    check_rows_alone,
    check_halved_steps,
    check_residual,
    check_residual_of_others,
    check_slopes,
)


# --- of what --------------------------------------------------------------------------------------------------------


def test_equations_are_found():
    assert {"burgers.py", "korteweg_de_vries.py", "advection.py"} <= {p.name for p in equation_files()}


def test_an_equation_is_what_its_file_makes(equation):
    again = rebuilt(equation)
    assert (again.name, again.times, again.given) == (equation.name, equation.times, equation.given)
    assert repr(again.prior.to_json()) == repr(equation.prior.to_json())


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
def test_equation(equation, check):
    check(equation)


def test_starts_that_are_always_the_same(equation):
    initial = argument(equation, "initial")
    if initial is not None and "Start" in str(initial.annotation):
        waves = rebuilt(equation, initial=Waves((1.0, 0.5)))
        assert not waves.random
        check_random(waves)


def fading(fault):
    """du/dt = -k u on a ring, in steps, with the fault asked for."""

    class Fading(Evolution):
        name = "fading"
        random = True

        def __init__(self, times=(0.0, 0.5, 1.0), longest=0.1):
            self.times, self.longest, self.grid = times, longest, BoxGrid((8,), (1.0,))
            self.prior = Prior(k=td.Uniform(1.0, 2.0))
            self.given, self.observables = described({"initial": (2,)}, len(times), 2, self.grid)

        def start(self, theta, *, generator):
            rows = 1 if fault == "same" else len(theta)
            drawn = RandomField(1.0).draw(rows, 2, self.grid, generator=generator)
            return {"initial": drawn.expand(len(theta), -1, -1)}

        def solve(self, theta, given):
            state, k = given["initial"], column(theta, self.prior, "k", given["initial"])
            state = state - state.mean(0) if fault == "mixed" else state
            now, found = self.times[0] if fault == "zero" else 0.0, []
            for t in self.times:
                steps = math.ceil((t - now) / self.longest)
                if steps:
                    h = (t - now) / steps
                    state = state * (1 - k * h if fault == "euler" else (-k * h).exp()) ** steps
                now = t
                found.append(state * (-k * 0.1).exp() if fault == "late" else state)
            return torch.stack(found, dim=2 if fault == "layout" else 1)

        def rate(self, field, theta):
            rate = -column(theta, self.prior, "k", field) * field
            return 1.05 * rate if fault == "rate" else rate.detach() if fault == "detached" else rate

    return Fading()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("layout", check_layout),
        ("late", check_first_frame),
        ("zero", check_frames_of_their_own),
        ("same", check_random),
        ("mixed", check_rows_alone),
        ("euler", check_halved_steps),
        ("rate", check_residual),
        ("detached", check_slopes),
    ],
)
def test_a_faulty_equation_is_refused(fault, check):
    check(fading(""))
    with pytest.raises((AssertionError, RuntimeError)):
        check(fading(fault))


def test_settings_tell_campaigns_apart(equation, tmp_path):
    settings, again = equation.settings(), rebuilt(equation)
    assert (settings["grid"], settings["times"]) == (repr(equation.grid), json.dumps(equation.times))
    assert only_code(settings["code"]) == source_hash(equation)
    assert settings == again.settings()
    assert not any(" at 0x" in said for said in settings.values())  # they are the same in every process
    again.source = equation.source
    for _ in range(2):  # made, and found again
        Store.create(tmp_path, again, seed=0, block=2, rows=2)
    again.other = lambda grid: 0.0  # which has no name that would tell it from the next one
    with pytest.raises(TypeError, match="cannot be told from others by what it was built with: the function"):
        again.settings()
    again.other = "none"
    assert again.settings() != settings
    del again.other
    again.times = tuple(t + 0.5 for t in equation.times)  # the fault: other simulations under the same name
    with pytest.raises(ValueError, match=r"another campaign.*simulator: times"):
        Store.create(tmp_path, again, seed=0, block=2, rows=2)
