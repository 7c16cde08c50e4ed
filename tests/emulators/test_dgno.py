"""Fields that satisfy Darcy's equation, learnt without solutions, and codes found from measurements."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.simulation import simulate
from sciinf.core import Batch, load_fit, load_simulator
from sciinf.diagnostics.distances import interval
from sciinf.emulators._wendland import SMOOTHNESS, Bumps, Lattice, draw_bumps, draw_lattice, mollifier
from sciinf.emulators.dgno import DGNO, _turned
from sciinf.emulators.inversion import Inversion
from sciinf.emulators.multionet import MultiONet
from sciinf.training import Recipe, train

DOUBLE = torch.zeros(1, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def relative(found, true):
    return float(((found.detach() - true).flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)).mean())


def darcy(root, points):
    """Darcy's equation with a of 5 and 10, but for one part in 50,000."""
    kind: Any = type(load_simulator(root / "simulators" / "pde" / "darcy.py"))
    return kind(points, low=td.Uniform(4.9999, 5.0001), high=td.Uniform(9.9999, 10.0001))


@pytest.fixture(scope="module")
def small(root):
    """The equation on few points, simulations of it, and a small surrogate that knows their moments."""
    equation = darcy(root, 9)
    theta = equation.prior.sample(80, generator=generator())
    rows = Batch(theta, equation(theta, generator=generator()))
    net = DGNO(equation.prior, equation.observables, levels=(5.0, 10.0), latent=8, width=16, hidden=(32,), panels=8)
    net.standardise(lambda: iter([rows]))
    return equation, rows, net


# --- test functions and their integrals -------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothness", SMOOTHNESS)
def test_bumps(smoothness):
    bumps = Bumps(torch.tensor([[0.5, 0.5], [0.4, 0.6]]).double(), torch.tensor([0.3, 0.4]).double(), smoothness)
    lattice = draw_lattice(40, like=DOUBLE, generator=generator())
    value, slope = bumps.values_and_slopes(lattice.points)
    mass = math.pi * bumps.radii**2 / {2: 7, 4: 9}[smoothness]
    assert torch.allclose(value @ lattice.weights, mass, rtol=1e-4)
    centre, _ = bumps.values_and_slopes(bumps.centres)
    assert torch.allclose(centre.diagonal(), torch.ones(2).double())
    outside = (lattice.points - bumps.centres[0]).norm(dim=1) > 0.3
    assert bool((value[0, outside] == 0).all())
    assert bool((slope[0, :, outside] == 0).all())
    points = lattice.points.clone().requires_grad_(True)
    (by_autograd,) = torch.autograd.grad(bumps.values_and_slopes(points)[0][1].sum(), points)
    assert torch.allclose(by_autograd.mT, slope[1], atol=1e-10)


def test_lattice_integrates_polynomials():
    for seed in range(3):
        lattice = draw_lattice(5, like=DOUBLE, generator=generator(seed))
        for p, q in ((0, 0), (5, 0), (3, 5), (5, 5)):
            found = (lattice.points[:, 0] ** p * lattice.points[:, 1] ** q) @ lattice.weights
            assert abs(float(found) - 1 / ((p + 1) * (q + 1))) < 1e-12


def layered(lattice: Lattice, source: float):
    """Ground in layers, with the solution's flux and slope: -(a u')' = f for u of the first coordinate alone."""
    x = lattice.points[:, 0]
    a = torch.where((4 * x).floor() % 2 == 0, 5.0, 10.0).double()
    flux = torch.stack([-source * (x - 0.5), torch.zeros_like(x)])[None]
    return a[None], flux, flux / a


def test_residual_of_a_solution_is_zero_and_of_others_is_not(small):
    net = copy.deepcopy(small[2]).double()
    lattice = draw_lattice(13, like=DOUBLE, generator=generator(1))
    bumps = draw_bumps(200, (0.12, 0.4), 2, like=DOUBLE, generator=generator(2))
    a, flux, slope = layered(lattice, net.source)
    square = (
        (flux.square() / a[:, None]).sum(1) @ lattice.weights * net.given_mean.flatten() / net.source**2 / 0.0351443
    )
    residual = lambda s, g: float(net.residual_of(s, g, a, lattice, bumps))  # noqa: E731
    assert residual(flux, slope) < 0.01
    x = lattice.points
    swirl = torch.stack([x[:, 1] - 0.5, 0.5 - x[:, 0]])[None]  # has no divergence
    assert float(bumps.imbalance(flux + swirl, lattice, net.source).abs().max()) < 0.02 * net.source
    assert abs(residual(flux, 0.9 * slope) - 0.01 * float(square)) < 0.01  # the flux is not that of u
    assert residual(1.1 * flux, 1.1 * slope) > 0.1  # more flows out than comes in
    assert residual(-flux, -slope) > 10


def test_imbalance_sees_a_strip_along_the_edge():
    """Where supports are kept inside the square, and the factor is left out, that strip escapes."""
    lattice = draw_lattice(20, like=DOUBLE, generator=generator(1))
    x = lattice.points[:, 0]
    lost = torch.stack([(0.04 - x).clamp_min(0.0), torch.zeros_like(x)])[None]  # has a divergence in the strip alone
    bumps = draw_bumps(200, (0.12, 0.4), 2, like=DOUBLE, generator=generator(2))
    seen = bumps.imbalance(lost, lattice, 0.0).square().mean()
    radii = bumps.radii[:, None]
    inside = Bumps(radii + (1 - 2 * radii) * bumps.centres, bumps.radii)
    slope = inside.values_and_slopes(lattice.points)[1]
    size = (slope.square().sum(1) @ lattice.weights).sqrt() * inside.radii
    missed = ((slope * lattice.weights).flatten(1) @ lost.flatten() / size).square().mean()
    assert float(seen) > 20 * float(missed)


# --- the network ------------------------------------------------------------------------------------------------------


def test_slopes_equal_autograd():
    torch.manual_seed(0)
    net = MultiONet(3, 2, 2, width=12, depth=4, averaged=3).double()
    code, points = torch.randn(5, 3).double(), torch.rand(7, 2).double().requires_grad_(True)
    value, slope = net.with_slopes(code, points)
    assert torch.allclose(value, net(code, points))
    for row in range(5):
        for output in range(2):
            (by_autograd,) = torch.autograd.grad(value[row, output].sum(), points, retain_graph=True)
            assert torch.allclose(by_autograd.mT, slope[row, output], atol=1e-12)
    assert not torch.allclose(slope[0], slope[1])


def test_multionet_is_the_mean_of_products():
    torch.manual_seed(0)
    net = MultiONet(3, 2, 1, width=8, depth=3, averaged=2).double()
    code, points = torch.randn(1, 3).double(), torch.rand(4, 2).double()
    t = torch.sin(points @ net.enter.mT + net.phase)
    b = code @ net.coded[0] + net.coded_bias[0]
    total = net.bias
    for k in range(2):
        t = torch.tanh(t @ net.trunk[k] + net.trunk_bias[k])
        b = b + torch.nn.functional.silu(b @ net.branch[k, 0] + net.branch_bias[k, 0])
        total = total + net.weight[0, k] * (t @ b[0]) / math.sqrt(8) / 2
    assert torch.allclose(net(code, points)[0, 0], total)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": 2}, {"frequency": 0.0}, {"averaged": 0}])
def test_multionet_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MultiONet(3, 2, **wrong)


# --- the surrogate ----------------------------------------------------------------------------------------------------


def test_solutions_have_no_part_in_the_loss(small):
    _, rows, net = small
    blind = Batch(rows.theta, {**rows.x, "u": torch.full_like(rows.x["u"], math.nan)})
    for training in (True, False):
        net.train(training)
        seen, unseen = (net.loss(b, generator=generator(3)) for b in (rows, blind))
        assert torch.equal(seen, unseen)
        assert bool(seen.isfinite().all())


def test_fields_are_those_of_the_network(small):
    """Slope, boundary and grid agree."""
    _, rows, net = small
    raw = net.encode(rows.x["coefficient"][:3])
    points = torch.rand(6, 2, generator=generator()).requires_grad_(True)
    found = net.solution_at(raw, points)
    (by_autograd,) = torch.autograd.grad(found[1].sum(), points)
    assert torch.allclose(by_autograd.mT, net.flux_and_slope_at(raw, points)[1][1], atol=1e-5)
    edge = torch.tensor([[0.0, 0.3], [1.0, 0.2], [0.4, 0.0], [0.7, 1.0]])
    assert bool((net.solution_at(raw, edge).abs() < 1e-6 * found.abs().max()).all())
    assert torch.equal(
        net.predict(rows.theta[:3], rows.x | {"coefficient": rows.x["coefficient"][:3]}).flatten(1),
        net.solution_at(raw, net.grid),
    )
    assert torch.equal(net._nearest(rows.x["coefficient"], net.grid), rows.x["coefficient"].flatten(1))


def test_coefficients_of_any_value(small):
    """Without levels the code tells a itself, which stays positive, and of what it leaves untold the square counts."""
    equation, rows, _ = small
    net = DGNO(equation.prior, equation.observables, latent=8, width=16, hidden=(32,), panels=8)
    net.standardise(lambda: iter([rows]))
    net.eval()
    with torch.no_grad():
        raw = net.encode(rows.x["coefficient"])
        whole, left = (
            f(rows, generator=generator(1))
            for f in (net.loss, lambda b, generator: net.residual(raw, b.x["coefficient"], generator=generator))
        )
        found = (net.coefficient_at(raw, net.grid) - net.given_mean.flatten()) / net.given_sd.flatten()
        true = (rows.x["coefficient"].flatten(1) - net.given_mean.flatten()) / net.given_sd.flatten()
        assert torch.allclose(whole - left, 0.3 * (found - true).square().mean(1), atol=1e-3)
        net.field.bias.fill_(-100.0)
        assert bool((net.coefficient_at(raw, net.grid) > 0).all())


def test_turned_fields_take_all_positions():
    field = torch.arange(9.0).reshape(1, 1, 3, 3)
    found = {tuple(f.flatten().tolist()) for f in _turned(field.expand(400, -1, -1, -1), generator())}
    wanted = {tuple(torch.rot90(f, k, (-2, -1)).flatten().tolist()) for f in (field, field.mT) for k in range(4)}
    assert found == wanted
    assert len(wanted) == 8
    assert {f.shape for f in _turned(torch.zeros(5, 1, 2, 3), generator())} == {(1, 2, 3)}


@pytest.mark.slow
def test_training_lowers_the_residual(small, tmp_path):
    equation, rows, net = small
    store = simulate(equation, tmp_path / "store", 150, seed=1, progress=False)
    recipe = Recipe(epochs=16, batch=20, optimiser="muon", learning_rate=5e-3, validate_every=8)
    fit = train(net, store, tmp_path / "fit", recipe=recipe)
    after = fit.surrogate
    assert isinstance(after, DGNO)
    a = rows.x["coefficient"]
    with torch.no_grad():
        left = [float(n.residual(n.encode(a), a, generator=generator()).mean()) for n in (net, after)]
        off = [relative(n.predict(rows.theta, rows.x), rows.x["u"]) for n in (net, after)]
    assert left[1] < left[0] / 5
    assert off[1] < 0.8 * off[0]
    assert fit.record["relative_error"] == pytest.approx(off[1], rel=0.5)
    again = load_fit(tmp_path / "fit").surrogate
    assert torch.equal(again.predict(rows.theta, rows.x), after.predict(rows.theta, rows.x))


@pytest.mark.parametrize(
    "wrong",
    [
        {"source": 0.0},
        {"levels": (5.0, 5.0)},
        {"radii": (0.2, 0.7)},
        {"radii": (0.01, 0.4)},
        {"smoothness": 3},
        {"balance": -1.0},
    ],
)
def test_surrogate_refuses(small, wrong):
    equation, _, _ = small
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DGNO(equation.prior, equation.observables, **wrong)


# --- inversion --------------------------------------------------------------------------------------------------------


def linear(small, error):
    """A surrogate whose solution is linear in the code, with errors of a given size; and fields."""
    equation, _, net = small
    net = DGNO(equation.prior, equation.observables, levels=(5.0, 10.0), latent=4, width=16, hidden=(32,), seed=1)
    net.given_mean.fill_(7.5)
    net.given_sd.fill_(2.5)
    with torch.no_grad():
        net.encoder[-1].weight.mul_(0.02)
        net.encoder[-1].bias.zero_()
        net.solution.coded.mul_(300.0)
        net.solution.branch.zero_()
    net.errors.copy_(torch.randn(net.errors.shape, generator=generator(5)) * mollifier(net.grid)[0].reshape(9, 9))
    net.size.zero_()
    net.size[0] = math.log(error)
    field = equation.start(equation.prior.sample(600, generator=generator(7)), generator=generator(8))
    return net, field["coefficient"].float()


def exact(net, inversion, at, y, sd, error):
    """Mean and covariance of the solution at the sensors."""
    slope = torch.func.jacrev(lambda z: net.solution_at(z[None], at)[0])(inversion.mean)
    values = net.errors.flatten(1) * error
    where = (at * 8).round().long()
    seen = values[:, where[:, 0] * 9 + where[:, 1]]
    prior = slope @ (inversion.root @ inversion.root.mT) @ slope.mT + seen.mT @ seen / len(values)
    gain = prior @ torch.linalg.inv(prior + sd**2 * torch.eye(len(at)))
    start = net.solution_at(inversion.mean[None], at)[0]
    return start + gain @ (y - start), prior - gain @ prior


@pytest.mark.slow
def test_draws_of_a_linear_surrogate_are_the_posterior(small):
    """Means within 5 standard errors, sds within 10 %: a false alarm in less than one of 10,000 changes of seed."""
    error, sd = 0.05, 0.03
    net, fields = linear(small, error)
    inversion = Inversion(net, fields, draws=3_000, steps=300)
    at = torch.tensor([[2, 2], [2, 6], [5, 4], [6, 1], [6, 6]]) / 8
    y = net.solution_at(inversion.mean[None] + inversion.root[:, 1], at) + 0.05
    solution = inversion(at, y, sd, generator=generator(9)).solution[0]
    where = (at * 8).round().long()
    seen = solution[:, where[:, 0], where[:, 1]]
    mean, covariance = exact(net, inversion, at, y[0], sd, error)
    spread = covariance.diagonal().sqrt()
    assert bool(((seen.mean(0) - mean).abs() < 5 * spread / math.sqrt(3_000) + 0.02 * spread).all())
    assert torch.allclose(seen.std(0), spread, rtol=0.1)
    blind = exact(net, inversion, at, y[0], sd, 0.0)[1].diagonal().sqrt()  # takes the surrogate for the truth
    assert bool((seen.std(0) > 1.15 * blind).any())


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_piecewise_constant_ground(root, tmp_path):
    """1,000 fields of 29 x 29 points without solutions: forwards, and backwards from 100 values with noise at 25 dB."""
    equation = darcy(root, 29)
    store = simulate(equation, tmp_path / "store", 1_000, seed=0, progress=False)
    net = DGNO(equation.prior, equation.observables, levels=(5.0, 10.0))
    recipe = Recipe(epochs=110, batch=32, optimiser="muon", learning_rate=5e-3, validate_every=5)
    net = train(net, store, tmp_path / "fit", recipe=recipe).surrogate
    assert isinstance(net, DGNO)
    test = simulate(equation, tmp_path / "test", 100, seed=1, progress=False).load()
    a, u = test.x["coefficient"][:, 0], test.x["u"][:, 0, 0]
    assert relative(net.predict(test.theta, test.x)[:, 0, 0], u) <= 0.05
    inner = (torch.randperm(27 * 27, generator=generator(2))[:100]).to(torch.int64)
    row, column = inner // 27 + 1, inner % 27 + 1
    sd = u[:40].flatten(1).square().mean(1).sqrt() * 10 ** (-25 / 20)
    y = u[:40, row, column] + sd[:, None] * torch.randn(40, 100, generator=generator(3))
    inversion = Inversion(net, store.load(slice(0, 900)).x["coefficient"])
    found = inversion(torch.stack([row, column], 1) / 28, y, sd, generator=generator(4))
    assert relative(found.coefficient.mean(1), a[:40]) <= 0.20
    assert relative(found.solution.mean(1), u[:40]) <= 0.05
    low, high = interval(found.solution.transpose(0, 1), 0.9)
    held = ((u[:40] >= low) & (u[:40] <= high))[:, 1:-1, 1:-1].float().mean()
    assert 0.85 <= float(held) <= 0.95
