"""A network that is learned from an equation alone: where its points go, what it finds, and what it does not say."""

from __future__ import annotations

import math

import pytest
import torch
from emulators.fields import Decay
from lab.rings import Ring, Unknown

from sciinf import Flow, Recipe, load_fit, simulate, train
from sciinf.core import Batch
from sciinf.emulators import Emulator
from sciinf.lab import AdversarialPoints, Collocation, FollowingPoints
from sciinf.lab.point_equation import CollocationPoints
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.training import train_ensemble

pytestmark = pytest.mark.slow

TRUST = ("lab.rings",)
SMALL = {"points": 8, "width": 16, "layers": 2}
RECIPE = Recipe(epochs=40, batch=32, optimiser="muon")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def relative(found, true):
    return float(((found.detach() - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).mean())


def rows_of(equation, n=64):
    theta = equation.prior.sample(n, generator=generator(3))
    return Batch(theta, {"at": torch.zeros(n, 2)})


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """Of an equation that has no solver."""
    root, equation = tmp_path_factory.mktemp("alone"), Unknown()
    store = simulate(CollocationPoints(equation), root / "store", 500, seed=0, progress=False)
    return train(Collocation(equation, **SMALL), store, root / "fit", recipe=RECIPE, progress=False)


@pytest.fixture(scope="module")
def solved(tmp_path_factory):
    """Rows of the solved equation."""
    return simulate(Ring(), tmp_path_factory.mktemp("solved") / "store", 300, seed=0, progress=False)


def test_it_finds_the_solution_from_the_equation_alone(fit):
    theta = Ring().prior.sample(100, generator=generator(7))
    true, found = Ring().solve(theta, {}), fit.surrogate.predict(theta, {})
    assert found.shape == (100, 3, 1, 16)
    assert relative(found, true) < 0.1
    assert relative(found, true) < 0.3 * relative(found, true.flip(0))  # the fault: others' parameters
    assert fit.record["residual"] < 0.5
    alone = fit.surrogate.predict(theta[3:4], {})
    assert torch.allclose(alone, found[3:4], atol=1e-5)


def test_without_a_solution_nothing_is_said_of_errors(fit):
    theta, equation = Ring().prior.sample(5, generator=generator()), Unknown()
    assert "relative_error" not in fit.record
    for ask in (
        lambda: fit.surrogate.spread(theta),
        lambda: fit.surrogate.draw(theta, {}, generator=generator()),
        lambda: fit.surrogate.error(theta, {}, generator=generator()),
        lambda: Emulator(load_fit(fit.folder, trust=TRUST), equation),
    ):
        with pytest.raises(ValueError, match="no solution has checked this Collocation"):
            ask()
    sure = Emulator(load_fit(fit.folder, trust=TRUST), equation, error=False)
    assert torch.allclose(sure(theta, generator=generator())["u"], fit.surrogate.predict(theta, {}), atol=1e-5)
    with pytest.raises(ValueError, match=r"'unknown' has no solver: train\(Collocation"):
        equation(theta, generator=generator())


@pytest.mark.filterwarnings("ignore:the surrogate's 'u' is off")
def test_solutions_check_it_and_are_not_learned_from(solved, tmp_path):
    recipe = Recipe(epochs=10, batch=30, optimiser="muon")
    right, wrong = (
        train(Collocation(Ring(speed), **SMALL), solved, tmp_path / str(speed), recipe=recipe, progress=False)
        for speed in (1.0, 0.0)
    )
    theta = Ring().prior.sample(200, generator=generator(7))
    for one in (right, wrong):
        off = one.surrogate.predict(theta, {}).detach() - Ring().solve(theta, {})
        true = float(off.square().mean().sqrt())
        assert float(one.surrogate.spread(theta).square().mean().sqrt()) == pytest.approx(true, rel=0.5)
        drawn = one.surrogate.error(theta, {}, generator=generator(1))
        assert float(drawn.square().mean().sqrt()) == pytest.approx(true, rel=0.5)
        error = relative(one.surrogate.predict(theta, {}), Ring().solve(theta, {}))
        assert one.record["relative_error"] == pytest.approx(error, rel=0.5)
    # the fault: an equation that is not that of the solutions, however small its residual
    assert wrong.record["relative_error"] > 2 * right.record["relative_error"]


def test_shapes_seed_and_slopes():
    rows = rows_of(Ring())
    made = [Collocation(Ring(), AdversarialPoints(), seed=k, **SMALL) for k in (0, 0, 1)]
    losses = [one.loss(rows, generator=generator()) for one in made]
    assert losses[0].shape == (64,)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    losses[0].mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made[0].parameters())
    made[0].eval()
    seen = made[0].loss(rows, generator=generator())
    assert torch.equal(seen, made[0].loss(rows, generator=generator()))


def slopes(learned, part, rows):
    learned.zero_grad()
    learned.loss(rows, generator=generator()).mean().backward()
    return torch.cat([p.grad.flatten() for p in getattr(learned, part).parameters()])


def test_one_loss_moves_each_side_by_its_own_aim_alone(monkeypatch):
    """Whatever one side weighs, the other's slopes are the same, and of a size that does not go with the residual's."""
    rows = rows_of(Ring())
    plain, smooth, edged = (
        Collocation(Ring(), AdversarialPoints(smooth), edges=edges, **SMALL)
        for smooth, edges in ((0.0, 1.0), (1.0, 1.0), (0.0, 50.0))
    )
    assert torch.equal(slopes(plain, "network", rows), slopes(smooth, "network", rows))
    assert not torch.equal(slopes(plain, "placing", rows), slopes(smooth, "placing", rows))
    assert torch.equal(slopes(plain, "placing", rows), slopes(edged, "placing", rows))
    assert not torch.equal(slopes(plain, "network", rows), slopes(edged, "network", rows))
    before = [slopes(plain, part, rows) for part in ("network", "placing")]
    other = Collocation(Ring(), AdversarialPoints(0.0), **SMALL)
    monkeypatch.setattr(other.placing, "loss", lambda points, squares, *, generator: torch.zeros_like(squares))
    assert torch.equal(before[0], slopes(other, "network", rows))
    plain.residual_size.mul_(1e-3)
    plain.edges = 1e6
    after = [slopes(plain, part, rows) for part in ("network", "placing")]
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-5 * float(one.abs().max()))


def bump(points):
    """A residual that is large at one place of the cube, of a thousandth of it."""
    return (-((points - 0.7) / 0.04).square().sum(-1)).exp()


def placed(placement, sign=1.0):
    """After it was shown the bump: the share of points that are there, and how they are placed."""
    torch.manual_seed(0)
    placing = placement.build(2)
    moves, noise = torch.optim.Adam(placing.parameters(), 0.02), generator()
    even = torch.rand(2_000, 2, generator=generator(1))
    for _ in range(60):
        points = placing.points(even[:300], bump, generator=noise)
        moves.zero_grad()
        (sign * placing.loss(points, 1e-6 + bump(points), generator=noise)).mean().backward()
        moves.step()
    with torch.no_grad():
        points = placing.points(even, bump, generator=noise)
    return float(((points - 0.7).abs() < 0.08).all(-1).double().mean()), placing


FLOW = SplineCoupling(transforms=2, hidden=8, bins=6, blocks=1)
LEARNED = [AdversarialPoints(1e-5, 0.0, flow=FLOW, slow=1.0), FollowingPoints(0.1, flow=FLOW, slow=1.0)]


@pytest.mark.parametrize("placement", LEARNED)
def test_points_go_where_the_residual_is_and_their_density_is_normalised(placement):
    share, placing = placed(placement)
    assert share > 0.2  # of even points 0.026
    assert placed(placement, -1.0)[0] < 0.03  # the fault: points that flee from it
    side = (torch.arange(300) + 0.5) / 300
    with torch.no_grad():
        assert float(placing.density(torch.cartesian_prod(side, side)).exp().mean()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("kind", [AdversarialPoints, FollowingPoints])
def test_a_share_of_points_stays_even_and_a_density_moves_slowly(kind):
    even = torch.rand(100, 2, generator=generator())
    kept = kind(even=0.5).build(2)
    assert torch.equal(kept.points(even, bump, generator=generator())[:50], even[:50])
    before = kept.density(even).detach()
    for weight in kept.parameters():
        weight.data.add_(0.01)
    slowly = float((kept.density(even) - before).detach().abs().mean())
    kept.flow.share = 1.0
    assert 0 < slowly < 0.3 * float((kept.density(even) - before).detach().abs().mean())


def test_members_are_trained_at_once(tmp_path):
    equation, recipe = Unknown(), Recipe(epochs=2, batch=50)
    store = simulate(CollocationPoints(equation), tmp_path / "store", 200, seed=0, progress=False)
    members = [Collocation(equation, AdversarialPoints(), seed=k, **SMALL) for k in range(2)]
    one, two = train_ensemble(members, store, tmp_path / "both", recipe=recipe, progress=False)
    theta = equation.prior.sample(5, generator=generator())
    found = [fit.surrogate.predict(theta, {}) for fit in (one, two)]
    assert not torch.allclose(*found, atol=1e-3)
    assert all(bool(each.isfinite().all()) for each in found)
    assert one.record["best_validation_loss"] != two.record["best_validation_loss"]


def test_what_does_not_suit_is_refused(solved, tmp_path):
    equation = Ring()
    for make, says in (
        (lambda: Collocation(Ring(), points=0), "points"),
        (lambda: Collocation(Ring(), edges=math.inf), "edges is a weight"),
        (lambda: Collocation(Ring(), scale=0.0), "scale a size above 0"),
        (lambda: AdversarialPoints(-1.0), "smooth >= 0"),
        (lambda: AdversarialPoints(even=1.0), "0 <= even < 1"),
        (lambda: AdversarialPoints(reach=0.5), "0 < reach < 0.5"),
        (lambda: FollowingPoints(0.0), "0 < even < 1"),
        (lambda: FollowingPoints(slow=0.0), "0 < slow <= 1"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
    with pytest.raises(TypeError, match="Collocation needs an equation"):
        Collocation(Decay())
    with pytest.raises(TypeError, match="AtPoints"):
        CollocationPoints(Decay())
    store = simulate(CollocationPoints(equation), tmp_path / "store", 50, seed=0, progress=False)
    with pytest.raises(ValueError, match="expects 'u'"):  # what learns from solutions wants them
        train(Flow(equation.prior, {"u": equation.observables["u"]}), store, tmp_path / "fit")
