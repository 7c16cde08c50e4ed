"""The compiled perceptron finds what torch's operations find, and is used where it can be."""

from __future__ import annotations

import pytest
import torch
from flows.architectures import normal
from planted_faults import compiled_with

from sciinf.networks.kernels.library import without_loops
from sciinf.networks.summaries import perceptron
from sciinf.networks.summaries.perceptron import Perceptron

needed = pytest.mark.skipif(perceptron._loops() is None, reason="there is no C compiler here, or it is turned off")
WIDTHS = [(3, 8, 5), (42, 64, 64, 32), (1, 1), (7, 130, 1), (16, 16, 16, 16, 16)]


def network(widths):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Perceptron(widths)


def found(made, x):
    """What comes out, and the gradient of a sum of it."""
    x = x.to(made[0].weight.dtype).requires_grad_()
    out = made(x)
    total = (out * torch.cos(torch.arange(out.numel())).view_as(out)).sum()
    return [one.detach().double() for one in (out, *torch.autograd.grad(total, (x, *made.parameters())))]


@needed
@pytest.mark.parametrize("rows", [(1,), (64,), (3, 50)])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_it_is_right(widths, rows):
    x, made = 3 * normal(*rows, widths[0], dtype=torch.float32), network(widths)
    ours, exact = found(made, x), found(network(widths).double(), x)
    for one, other in zip(ours, exact, strict=True):
        assert float((one - other).norm()) < 1e-5 * float(other.norm()) + 1e-6


@needed
@pytest.mark.parametrize("value", [0.0, -8.0, 8.0, -40.0, 40.0, 1e30, -1e30, float("nan")])
def test_numbers_of_any_size_are_bent_as_torch_bends_them(value):
    made, x = network((1, 1, 1)), torch.full((3, 1), value)
    theirs = made.by_torch(x)
    torch.testing.assert_close(made(x), theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


@needed
def test_names_and_first_weights_are_those_of_a_sequence_of_layers():
    made = network((3, 8, 5))
    assert list(made.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert torch.equal(made[2].weight, [torch.nn.Linear(3, 8), torch.nn.Linear(8, 5)][1].weight)


@needed
def test_members_mapped_at_once_and_gradients_mapped_are_those_one_by_one():
    made, x = network((3, 8, 5)), normal(2, 70, 3, dtype=torch.float32)
    weights = [torch.stack([w, 1.1 * w]).detach() for w in made.parameters()]
    names = [name for name, _ in made.named_parameters()]

    def loss(x, *weights):
        return torch.func.functional_call(made, dict(zip(names, weights, strict=True)), x).sin().sum()

    places = tuple(range(1 + len(weights)))
    alone = [torch.func.grad(loss, places)(*one) for one in zip(x, *weights, strict=True)]
    mapped = torch.func.vmap(torch.func.grad(loss, places))(x, *weights)
    shared = torch.func.vmap(torch.func.grad(loss, places), in_dims=(None, *[0] * len(weights)))(x[0], *weights)
    for all_, one in zip(mapped, zip(*alone, strict=True), strict=True):
        assert torch.equal(all_, torch.stack(one))
    assert torch.equal(shared[1][0], alone[0][1])


@needed
def test_half_precision_and_second_derivatives_are_torchs_or_refused():
    made, x = network((3, 8, 5)), normal(70, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(x), made.by_torch(x))
    total = made(x.requires_grad_()).sum() + x.square().sum()
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        slope.sum().backward()
    with without_loops():
        (slope,) = torch.autograd.grad(made(x).sum(), x, create_graph=True)
        assert float(torch.autograd.grad(slope.sum(), x)[0].abs().max()) > 0


def test_wide_layers_are_torchs():
    made, x = network((300, 4, 2)), normal(70, 300, dtype=torch.float32)
    assert torch.equal(made(x), made.by_torch(x))


@needed
def test_one_row_and_other_precisions_are_torchs_layers_too():
    made, x = network((3, 8, 5)), normal(3, dtype=torch.float32)
    torch.testing.assert_close(made(x), made.by_torch(x))
    with pytest.raises(RuntimeError, match="dtype"):
        made.double()(x)


@needed
def test_torchs_defaults_and_its_state_of_randomness_change_nothing():
    made, x, before = network((3, 8, 5)), normal(70, 3, dtype=torch.float32), torch.get_rng_state()
    expected = made(x)
    perceptron._loops.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(made(x), expected)
        assert perceptron._loops() is not None
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert made(x).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@needed
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("0.5f * p * *bell", "0.4f * p * *bell"), ("below + bent[i]", "below - bent[i]"),
     ("if (l) {", "if (l > 1) {"), ("g_all[2 * l + 1][r] = sum", "g_all[2 * l + 1][r] = 2.0f * sum")],
)  # fmt: skip
def test_a_library_that_computes_something_else_is_not_used(right, wrong, tmp_path, monkeypatch):
    compiled_with("perceptron", right, wrong, tmp_path, monkeypatch)
    perceptron._loops.cache_clear()
    try:
        assert perceptron._loops() is None
    finally:
        perceptron._loops.cache_clear()
