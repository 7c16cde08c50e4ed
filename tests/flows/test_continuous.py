"""The continuous flow against calculus, matrix exponentials, scipy's solvers, and densities known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from flows import architectures
from flows.architectures import CONTEXT, change_of_variables_errors, log_normal, normal, seeded
from flows.two_modes import excess, fitted, two_modes
from torchdiffeq import odeint

from sciinf.core.component import to_json
from sciinf.networks.flows.continuous import Continuous
from sciinf.networks.solver_cost import error_sum, local_error, stiffness_sum

DEPTHS = [(12,), (12, 10), (8, 9, 10)]


def build(dim, *, spread=0.3, dtype=torch.float64, **settings):
    """Solved accurately unless told otherwise."""
    settings = {"hidden": (12, 10), "tolerance": 1e-9, **settings}
    return architectures.build(Continuous(**settings), dim, spread=spread, dtype=dtype, seed=7 - dim)


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("hidden", DEPTHS, ids=str)
def test_push_and_log_prob_obey_the_change_of_variables(hidden, dim):
    assert float(change_of_variables_errors(build(dim, hidden=hidden), dim).max()) < 1e-5


def test_planted_fault_a_trace_of_the_wrong_sign_is_found():
    flow = build(2)
    flow.field.register_forward_hook(lambda _, given, rate: torch.cat([rate[..., :2], -rate[..., 2:]], dim=-1))
    assert float(change_of_variables_errors(flow, 2).max()) > 0.1


def test_density_integrates_to_one():
    flow, context = build(2, spread=0.2, tolerance=1e-5), normal(2, CONTEXT, seed=1)
    axis = torch.linspace(-8, 8, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(grid[:, None].expand(-1, 2, 2), context).exp()
    mass = density.sum(0) * (axis[1] - axis[0]) ** 2
    assert float((density.amax(0) - 1 / (2 * math.pi)).abs().min()) > 0.01  # it is not the standard normal
    torch.testing.assert_close(mass, torch.ones_like(mass), atol=1e-4, rtol=0)


def test_a_new_flow_is_the_standard_normal():
    flow, z, context = Continuous().build(3, CONTEXT), normal(5, 4, 3, dtype=torch.float32), torch.ones(4, CONTEXT)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob(z, context), log_normal(z))
        torch.testing.assert_close(flow.push(z, context), z)


def test_linear_field_is_the_gaussian_of_its_matrix_exponential():
    # dz/dt = A z + m: e = exp(A) z + b with [exp(A), b; 0, 1] = exp([A, m; 0, 0]), so z ~ N(-exp(-A) b, exp(-A)...^T)
    flow, dim = build(3, tolerance=1e-10), 3
    matrix, offset = normal(dim, dim, seed=3), normal(dim, seed=4)
    with torch.no_grad():
        flow.field.last.weight.zero_()
        flow.field.last_given.weight.zero_()
        flow.field.last_given.bias[-(dim + dim * dim) :] = torch.cat([offset, matrix.flatten()])
    augmented = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
    augmented[:dim, :dim], augmented[:dim, dim] = matrix, offset
    whole = torch.linalg.matrix_exp(augmented)
    inverse = torch.linalg.inv(whole[:dim, :dim])
    exact = torch.distributions.MultivariateNormal(-inverse @ whole[:dim, dim], inverse @ inverse.T)
    noise, context = normal(6, 5, dim), normal(5, CONTEXT)
    z = exact.mean + noise @ inverse.T
    with torch.no_grad():
        torch.testing.assert_close(flow.push(noise, context), z, atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(flow.log_prob(z, context), exact.log_prob(z), atol=1e-6, rtol=1e-7)


@pytest.mark.parametrize("hidden", DEPTHS, ids=str)
def test_trace_is_that_of_the_field_differentiated(hidden):
    flow, z, context = build(4, hidden=hidden), normal(2, 3, 4), normal(3, CONTEXT)
    given, t = flow.field.prepare(context), torch.tensor(0.3, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda value: flow.field(t, value, given))(z)
    expected = torch.einsum("nbinbi->nb", jacobian)
    found = flow.field(t, torch.cat([z, z[..., :1]], dim=-1), given)[..., -1]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_encode_is_scipys_solution():
    from scipy.integrate import solve_ivp

    flow, z, context = build(2, tolerance=1e-8), normal(1, 1, 2), normal(1, CONTEXT)
    with torch.no_grad():
        given, start = flow.field.prepare(context), [*z.flatten().tolist(), 0.0]

        def rate(t, y):
            return flow.field(torch.tensor(t), torch.as_tensor(y)[None, None], given).flatten().numpy()

        exact = solve_ivp(rate, (0.0, 1.0), start, method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
        found = torch.cat([part.flatten() for part in flow.encode(z, context)])
    torch.testing.assert_close(found, torch.as_tensor(exact), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_single_precision_round_trip_at_the_default_tolerance(dim):
    # a field this smooth stretches no row a hundredfold, so local errors of 1e-5 do not grow beyond 1e-3
    flow = build(dim, dtype=torch.float32, tolerance=Continuous().tolerance, spread=0.15)
    noise, context = normal(20, 20, dim, dtype=torch.float32), normal(20, CONTEXT, dtype=torch.float32)
    with torch.no_grad():
        z = flow.push(noise, context)
        assert z.dtype == torch.float32
        assert float((z - noise).abs().max()) > 0.3
        again, _ = flow.encode(z, context)
        exact = flow.double().log_prob(z.double(), context.double())
        assert float((again - noise).abs().max()) < 1e-3
        flow.tolerance = 1e-10
        assert float((flow.log_prob(z.double(), context.double()) - exact).abs().max()) < 1e-3


def deviation(law, *, rows=20_000, scale=1.0):
    """(mean of the estimated loss - loss with the exact trace) in standard errors, and the sd of one estimate."""
    exact, estimated = build(4, penalty=0.0).train(), build(4, penalty=0.0, trace=law).train()
    if scale != 1:
        draw = estimated._noise
        estimated._noise = lambda z, generator: scale * draw(z, generator)
    z, context = normal(1, 4).expand(rows, 4), normal(1, CONTEXT, seed=1).expand(rows, CONTEXT)
    with torch.no_grad():
        truth = exact.loss(z[:1], context[:1], generator=seeded(0))
        losses = estimated.loss(z, context, generator=seeded(1))
    return float((losses.mean() - truth) / (losses.std() / math.sqrt(rows))), float(losses.std())


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinsons_trace_has_no_bias(law):
    # beyond 4.4 standard errors: 1 false alarm in 100,000 seeds
    error, sd = deviation(law)
    assert sd > 0.1
    assert abs(error) < 4.4


def test_planted_fault_noise_of_the_wrong_size_is_found():
    assert abs(deviation("rademacher", scale=1.25)[0]) > 4.4


def test_noise_is_drawn_once_per_solve_and_only_from_the_generator():
    flow, before = build(2, trace="gaussian", penalty=0.0).train(), torch.random.get_rng_state()
    used, other = seeded(5), seeded(5)
    flow.loss(normal(9, 2), normal(9, CONTEXT), generator=used)
    torch.randn(1, 9, 2, generator=other, dtype=torch.float64)
    assert torch.equal(used.get_state(), other.get_state())
    assert torch.equal(before, torch.random.get_rng_state())


def test_default_trace_is_exact_where_that_is_cheap():
    deep = Continuous(hidden=(8, 8, 8))
    assert [Continuous().build(dim, 1).trace for dim in (2, 40)] == ["exact", "exact"]
    assert [deep.build(dim, 1).trace for dim in (32, 33)] == ["exact", "rademacher"]


def test_loss_approaches_the_log_density_as_its_grid_is_refined():
    z, context = normal(50, 2), normal(50, CONTEXT, seed=1)
    errors = []
    for steps in (4, 8):
        flow = build(2, steps=steps, penalty=0.0).train()
        with torch.no_grad():
            errors.append(float((flow.loss(z, context, generator=seeded(0)) + flow.log_prob(z, context)).abs().mean()))
    assert errors[1] < errors[0] / 10  # of order 4: 1/16
    finer = build(2, steps=4, penalty=10.0).eval()  # twice as fine in evaluation mode, and free of the penalty
    with torch.no_grad():
        value = finer.loss(z, context, generator=seeded(0))
        assert float((value + finer.log_prob(z, context)).abs().mean()) == pytest.approx(errors[1], rel=1e-3)


def test_local_error_is_that_of_scipys_pair():
    from scipy.integrate import RK23

    y, t, h = normal(1, 6, 3), 0.3, 0.25

    def rate(time, value):
        return torch.sin(3 * value) * (1 + time) - value.flip(-1)

    ks = [rate(t, y)]
    for row, c in zip(RK23.A[1:], RK23.C[1:], strict=True):
        ks.append(rate(t + c * h, y + h * sum(float(a) * k for a, k in zip(row, ks, strict=False))))
    end = y + h * sum(float(b) * k for b, k in zip(RK23.B, ks, strict=True))
    ks.append(rate(t + h, end))
    expected = h * sum(float(e) * k for e, k in zip(RK23.E, ks, strict=True)) / (1 + torch.maximum(y.abs(), end.abs()))
    found = local_error(rate, torch.full((6, 1), t, dtype=torch.float64), y, h)
    torch.testing.assert_close(found.abs(), expected.abs(), atol=1e-12, rtol=1e-9)


def test_penalty_is_the_local_error_of_one_random_step_of_the_grid():
    z, context, steps = normal(60, 2), normal(60, CONTEXT, seed=1), 3
    flow, free = (build(2, steps=steps, penalty=p).train() for p in (5.0, 0.0))
    chosen = torch.randint(steps, (60,), generator=seeded(0))
    with torch.no_grad():
        paid = flow.loss(z, context, generator=seeded(0)) - free.loss(z, context, generator=seeded(0))
        given, times = flow.field.prepare(context), torch.linspace(0, 1, steps + 1, dtype=torch.float64)

        def rate(t, state):
            return flow.field(t, state, given)

        states = odeint(rate, torch.cat([z, torch.zeros(60, 1)], dim=-1)[None], times, method="rk4")
        errors = torch.stack([local_error(rate, times[j], states[j], 1 / steps)[0] for j in range(steps)])
    expected = 5 * errors[chosen, torch.arange(60)].square().mean().sqrt()
    assert float(errors.square().mean((1, 2)).sqrt().diff().abs().min()) > 1e-4  # one step is not like another
    torch.testing.assert_close(paid, expected.expand(60), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(("penalised", "cost"), [("sum", error_sum), ("stiffness", stiffness_sum)])
def test_penalty_of_a_whole_solve_has_slopes_through_all_of_it(penalised, cost):
    """And it is no part of the loss that is validated."""
    z, context, steps = normal(60, 2), normal(60, CONTEXT, seed=1), 3
    flow, free = (build(2, steps=steps, penalty=p, penalised=penalised).train() for p in (5.0, 0.0))
    losses = [each.loss(z, context, generator=seeded(0)) for each in (flow, free)]
    times, given = [k / steps for k in range(steps + 1)], flow.field.prepare(context)

    def rate(t, state):
        return flow.field(t, state, given)

    states = odeint(rate, torch.cat([z, torch.zeros(60, 1)], dim=-1)[None], torch.tensor(times), method="rk4")
    expected = 5 * cost(rate, times, states)
    torch.testing.assert_close(losses[0] - losses[1], expected.expand(60), atol=1e-6, rtol=1e-5)
    weight = flow.field.last_given.weight
    whole, held = (
        torch.autograd.grad(cost(rate, times, each), weight, retain_graph=True)[0] for each in (states, states.detach())
    )
    paid, bare = (
        torch.autograd.grad(loss.mean(), each.field.last_given.weight)[0]
        for loss, each in zip(losses, (flow, free), strict=True)
    )
    torch.testing.assert_close((paid - bare) / 5, whole, atol=1e-6, rtol=1e-4)
    assert float((held - whole).norm() / whole.norm()) > 0.05
    flow.eval(), free.eval()
    assert torch.equal(*(each.loss(z, context, generator=seeded(0)) for each in (flow, free)))


def test_the_usual_penalty_is_described_as_before_there_were_others():
    assert "penalised" not in to_json(Continuous())["arguments"]
    assert to_json(Continuous(penalised="sum"))["arguments"]["penalised"] == "sum"


@pytest.mark.parametrize("penalised", ["local", "sum", "stiffness"])
def test_first_step_of_a_new_flow_has_finite_gradients(penalised):
    flow = Continuous(penalised=penalised).build(2, CONTEXT).train()  # the field is zero, and roots have a kink there
    flow.loss(torch.ones(5, 2), torch.ones(5, CONTEXT), generator=seeded(0)).mean().backward()
    assert all(bool(p.grad.isfinite().all()) for p in flow.parameters())


@pytest.mark.slow
def test_learns_a_density_of_two_modes_to_within_a_seventh_of_a_nat():
    # 10,000 rows: the excess has a standard error of about 0.004; fixed seeds, so no false alarms between runs
    assert -0.02 < excess(fitted(Continuous(hidden=(32, 32)), steps=200)) < 0.15


@pytest.mark.long
def test_penalty_saves_evaluations_at_the_same_density():
    z, c, _ = two_modes(2_000, seeded(3))
    evaluations, excesses = [], []
    for penalty in (0.0, Continuous().penalty):
        flow = fitted(Continuous(penalty=penalty), steps=600)
        calls = []
        flow.field.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        with torch.no_grad():
            flow.log_prob(z, c)
        evaluations.append(len(calls))
        excesses.append(excess(flow))
    assert evaluations[1] < 0.85 * evaluations[0]
    assert excesses[1] < excesses[0] + 0.02


def test_solutions_that_are_not_finite_are_refused():
    flow, z, context = build(2), normal(4, 2), normal(4, CONTEXT)
    with torch.no_grad():
        with pytest.raises(ValueError, match="no finite solution; look for values that are not finite in z"):
            flow.log_prob(torch.where(z > 0, torch.inf, z), context)
        flow.field.clock[0] = torch.nan
        with pytest.raises(ValueError, match="draws that are not finite"):
            flow.push(z[None], context)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (8, 0)}, r"hidden=\(8, 0\)"),
        ({"steps": 0}, "steps=0"),
        ({"trace": "hutchinson"}, "'rademacher', 'gaussian'.*got 'hutchinson'"),
        ({"penalty": -1.0}, "penalty=-1.0"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Continuous(**settings)
