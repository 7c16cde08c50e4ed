"""The compiled couplings of the default flow: they find what torch's operations find, and serve where they can."""

from __future__ import annotations

import platform
from contextlib import nullcontext

import pytest
import torch
from flows.architectures import normal
from planted_faults import compiled_with

from sciinf.networks.flows import couplings, spline_loops
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.kernels import library
from sciinf.networks.kernels.library import compiled, without_loops
from sciinf.networks.summaries import perceptron

SOURCE = library.FOLDER / "couplings.c"
SIZES = [  # dim, features, n, batch
    (5, 8, 1, 250), (1, 4, 2, 10), (2, 3, 200, 1), (10, 40, 1, 33), (3, 130, 5, 64), (4, 1, 3, 65), (2, 2, 1, 1),
]  # fmt: skip
PLAN = SplineCoupling(transforms=3, hidden=11, bins=4, blocks=1)

needed = pytest.mark.skipif(couplings._loops() is None, reason="there is no C compiler here, or it is turned off")


def flow(plan, dim, features):
    """With weights that are far from those of the beginning."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = plan.build(dim, features)
    with torch.no_grad():
        for number, weight in enumerate(made.parameters()):
            weight += 0.1 * normal(*weight.shape, seed=number, dtype=torch.float32)
    return made


def data(dim, features, n, batch):
    """z, some of it beyond the splines, and the context."""
    z = 2.0 * normal(n, batch, dim, seed=100, dtype=torch.float32)
    return z, normal(batch, features, seed=101, dtype=torch.float32)


def found(made, z, context, dtype=torch.float32):
    """Log density, its gradient by z, context and weights, and draws."""
    made = made.to(dtype)
    z, context = (one.to(dtype).requires_grad_() for one in (z, context))
    log_q = made.log_prob(z, context)
    total = (log_q * torch.cos(torch.arange(log_q.numel())).view_as(log_q)).sum()
    gradients = torch.autograd.grad(total, [z, context, *made.parameters()], materialize_grads=True)
    with torch.no_grad():
        return [one.detach().double() for one in (log_q, *gradients, made.push(z, context))]


def errors(ours, exact):
    return [float((a - b).norm() / (b.norm() + 1e-9)) for a, b in zip(ours, exact, strict=True)]


@needed
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other processors are as fast with them")
def test_slopes_too_small_for_their_digits_are_0():
    """On x86 such numbers made a training of 50,000 steps fifteen times slower."""
    made, (z, context) = flow(PLAN, 5, 8), data(5, 8, 1, 250)

    def largest():
        log_q = made.log_prob(z, context)
        return max(float(g.abs().max()) for g in torch.autograd.grad((1e-41 * log_q).sum(), list(made.inputs)))

    assert largest() == 0
    with without_loops():
        assert 0 < largest() < 1e-38
    assert float(torch.tensor(1e-40) * 1) > 0, "and afterwards there are such numbers"


@pytest.mark.skipif(compiled(SOURCE) is None, reason="there is no C compiler here, or it is turned off")
def test_what_is_compiled_here_agrees_and_is_used():
    """So that none of the tests below is left out where they can be done."""
    assert couplings._loops() is not None
    assert spline_loops._loops() is not None
    assert perceptron._loops() is not None


@needed
@pytest.mark.parametrize("plan", [SplineCoupling(), PLAN, SplineCoupling(1, 64, 2, 0, gaussian=False)])
@pytest.mark.parametrize("sizes", SIZES)
def test_they_are_as_right_as_torchs_operations(plan, sizes):
    made, given = flow(plan, *sizes[:2]), data(*sizes)
    exact, ours = found(made, *given, torch.float64), found(made, *given)
    with without_loops():
        theirs = found(made, *given)
    assert not torch.equal(ours[1], theirs[1]), "they are the compiled ones"
    for one, other in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert one < min(10 * other + 1e-5, 1e-3)


@needed
def test_members_mapped_at_once_and_gradients_mapped_are_those_one_by_one():
    members = [flow(PLAN, 3, 2) for _ in range(2)]
    names, z = [name for name, _ in members[0].named_parameters()], data(3, 2, 1, 70)
    with torch.no_grad():
        for weight in members[1].parameters():
            weight *= 1.1

    def loss(*weights):
        noise, log_det = torch.func.functional_call(Encode(members[0]), dict(zip(named, weights, strict=True)), z)
        return (noise * noise).sum() + log_det.sum()

    named = [f"made.{name}" for name in names]
    each = tuple(range(len(names)))
    alone = [torch.func.grad(loss, each)(*(w.detach() for w in member.parameters())) for member in members]
    stacked = [torch.stack(both).detach() for both in zip(*(m.parameters() for m in members), strict=True)]
    mapped = torch.func.vmap(torch.func.grad(loss, each))(*stacked)
    given = [one.requires_grad_() for one in stacked]
    together = torch.autograd.grad(torch.func.vmap(loss)(*given).sum(), given)
    for one, all_, whole in zip(zip(*alone, strict=True), mapped, together, strict=True):
        torch.testing.assert_close(all_, torch.stack(one), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(whole, torch.stack(one), rtol=1e-3, atol=1e-4)


class Encode(torch.nn.Module):
    """`encode` where torch asks for a module's call."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, z, context):
        return self.made.encode(z, context)


@needed
def test_draws_of_members_mapped_at_once_are_those_one_by_one():
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 4, 9)
    contexts = torch.stack([context, context.flip(0)])
    with torch.no_grad():
        mapped = torch.func.vmap(lambda c: made.decode(z, c))(contexts)
        torch.testing.assert_close(mapped, torch.stack([made.decode(z, c) for c in contexts]))


@needed
@pytest.mark.parametrize("name", ["context_map.weight", "block_weight", "output_bias.1", "linear.bias"])
def test_weights_that_are_not_finite_are_not_hidden(name):
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 1, 70)
    made.get_parameter(name).data.flatten()[:] = float("nan")
    with torch.no_grad():
        ours = made.log_prob(z, context).isnan(), made.decode(z, context).isnan()
        with without_loops():
            theirs = made.log_prob(z, context).isnan(), made.decode(z, context).isnan()
    assert all(bool(one.any()) and torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@needed
def test_arrays_that_are_not_contiguous_are_read_right():
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 4, 20)
    turned = z.transpose(0, 2).contiguous().transpose(0, 2), context.T.contiguous().T
    torch.testing.assert_close(found(made, *turned), found(made, z, context))


@needed
def test_a_draw_has_a_gradient():
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 1, 5)
    (slope,) = torch.autograd.grad(made.decode(z.requires_grad_(), context).sum(), z)
    exact = found_slope(flow(PLAN, 3, 2).double(), z.detach().double(), context.double())
    torch.testing.assert_close(slope.double(), exact, rtol=1e-3, atol=1e-4)


@needed
@pytest.mark.parametrize("where", [nullcontext, without_loops])
def test_a_second_derivative_is_refused_rather_than_wrong(where):
    """In a sum it was taken for that of the other summand alone, and by torch.func for zero."""
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 1, 5)
    with where():
        total = made.log_prob(z.requires_grad_(), context).sum() + z.square().sum()
        (slope,) = torch.autograd.grad(total, z, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivative"):
            slope.sum().backward()
        first = torch.func.grad(lambda z: made.log_prob(z, context).sum())
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.func.grad(lambda z: first(z).sum())(z.detach())


@needed
@pytest.mark.parametrize("what", ["weights", "context", "z"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_not_in_single_precision_throughout_is_left_to_torch(what, dtype):
    """Memory was read as what it is not."""
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 1, 5)
    if what == "weights":
        made = made.to(dtype)
    z, context = z.to(dtype) if what == "z" else z, context.to(dtype) if what == "context" else context
    assert not couplings.served(z, context, made._weights(*made._maps()))


@needed
def test_torchs_defaults_and_its_state_of_randomness_change_nothing():
    made, (z, context), before = flow(PLAN, 3, 2), data(3, 2, 1, 70), torch.get_rng_state()

    def slope():
        return torch.autograd.grad(made.log_prob(z.requires_grad_(), context).sum(), z)[0]

    expected = slope()
    couplings._loops.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(slope(), expected)
        assert couplings._loops() is not None
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert torch.equal(slope(), expected)
    assert torch.equal(torch.get_rng_state(), before)


def found_slope(made, z, context):
    return torch.autograd.grad(made.decode(z.requires_grad_(), context).sum(), z)[0]


@needed
def test_half_precision_is_left_to_torch():
    made, (z, context) = flow(PLAN, 3, 2), data(3, 2, 1, 70)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert not couplings.served(z, context, made._weights(*made._maps()))
        ours = made.log_prob(z, context)
        with without_loops():
            torch.testing.assert_close(ours, made.log_prob(z, context), rtol=0.05, atol=0.2)
    assert couplings.served(z, context, made._weights(*made._maps()))


@pytest.mark.slow
@needed
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("(1.0f - gate[i]) * change[i]", "gate[i] * change[i]"), ("input[i] > 0.0f ? change[i] : 0.0f", "change[i]"),
     ("g_gates[i] += to[i]", "g_gates[i] += 0.0f"), ("w.shifts + before * dim", "w.shifts"),
     ("h[i] += change[i] * gate[i]", "h[i] += change[i]"), ("row = first + i % width", "row = first"),
     ("- log_scale[i] * log_scale[i] / 64.0f", "- 0.0f"), ("open * (1.0f + a[i] * (1.0f - open))", "open"),
     ("g_z[p] += scaled[p] * by[p]", "g_z[p] += 0.0f"), ("to[p] -= by[p] * from[p]", "to[p] -= 0.0f")],
)  # fmt: skip
def test_a_library_that_computes_something_else_is_not_used(right, wrong, tmp_path, monkeypatch):
    compiled_with("couplings", right, wrong, tmp_path, monkeypatch)
    couplings._loops.cache_clear()
    try:
        assert couplings._loops() is None
    finally:
        couplings._loops.cache_clear()


@pytest.fixture
def turned_off(monkeypatch):
    monkeypatch.setenv("SCIINF_COMPILE", "0")
    for cached in (compiled, couplings._loops, spline_loops._loops):
        cached.cache_clear()
    yield
    for cached in (compiled, couplings._loops, spline_loops._loops):
        cached.cache_clear()


@pytest.mark.usefixtures("turned_off")
def test_without_it_torchs_operations_serve():
    made, given = flow(PLAN, 3, 2), data(3, 2, 2, 20)
    ours = found(made, *given)
    with without_loops():
        theirs = found(made, *given)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
