"""Summary networks: what may not change their output does not, and what must does."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from sciinf.core import Observable
from sciinf.core.component import from_json, to_json
from sciinf.core.summary import expand_mask
from sciinf.networks.kernels.library import without_loops
from sciinf.networks.summaries.choice import choose
from sciinf.networks.summaries.exchangeable import DeepSet
from sciinf.networks.summaries.image import CNN
from sciinf.networks.summaries.series import Conv1d, Transformer
from sciinf.networks.summaries.spectrum import Spectrum
from sciinf.networks.summaries.vector import MLP

SERIES = Observable((40, 2), dims=("time", "species"))
CASES = [
    (MLP(hidden=()), Observable((5,))),
    (MLP(), Observable(())),
    (MLP(features=7, hidden=(16, 12)), Observable((4, 6))),
    (Conv1d(), SERIES),
    (Conv1d(features=5, channels=8, kernel=3, layers=1), Observable((3, 25), dims=("channel", "time"))),
    (Conv1d(), Observable((3,), dims=("time",))),
    (Transformer(), SERIES),
    (Transformer(features=6, width=8, heads=2, layers=1), Observable((12,))),
    (DeepSet(), Observable((30, 3), dims=("item", "feature"))),
    (DeepSet(features=9, hidden=8), Observable((2, 11, 3), dims=("a", "item", "b"))),
    (DeepSet(), Observable((20,), dims=("item",))),
    (CNN(), Observable((17, 30), dims=("y", "x"))),
    (CNN(features=4, channels=(8,)), Observable((3, 16, 16))),
    (CNN(), Observable((9, 8, 2), dims=("row", "column", "channel"))),
    (Spectrum(), Observable((60,), dims=("energy",))),
    (Spectrum(features=5, channels=4, kernel=3, hidden=8), Observable((300, 2), dims=("wavelength", "order"))),
    (Spectrum(axis="energy"), Observable((2, 15), dims=("detector", "energy"))),
]
IDS = [f"{type(s).__name__}-{'x'.join(map(str, o.shape)) or 'number'}" for s, o in CASES]
each_case = pytest.mark.parametrize(("summary", "spec"), CASES, ids=IDS)


def build(summary, spec, masked, seed=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return summary.build(spec, masked=masked).eval()


def sample(spec, batch=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *spec.shape, generator=g), torch.rand(batch, *spec.shape, generator=g) < 0.7


@each_case
@pytest.mark.parametrize("masked", [False, True])
def test_shape_gradient_and_each_row_by_itself(summary, spec, masked):
    network, (x, mask) = build(summary, spec, masked), sample(spec)
    given = mask if masked else None
    features = network.train()(x.requires_grad_(), given)
    assert features.shape == (6, network.features)
    assert features.dtype == torch.float32
    features.square().sum().backward()
    assert float(x.grad.abs().sum()) > 0
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
    with torch.no_grad():
        network.eval()
        again = network(x, given)
        torch.testing.assert_close(again, features, atol=1e-5, rtol=1e-4)
        assert torch.equal(again, network(x, given))
        for row in range(6):
            alone = network(x[row : row + 1], mask[row : row + 1] if masked else None)
            torch.testing.assert_close(alone[0], again[row], atol=1e-5, rtol=1e-4)


@each_case
def test_what_is_missing_cannot_matter_and_what_is_present_does(summary, spec):
    network, (x, mask) = build(summary, spec, True), sample(spec)
    mask[0], mask[1] = False, True
    with torch.no_grad():
        features = network(x, mask)
        assert bool(features.isfinite().all())
        for garbage in (1e6, float("nan"), float("inf")):
            assert torch.equal(network(torch.where(mask, x, garbage), mask), features)
        changed = network(x + 1.0, mask)
        assert not torch.allclose(changed[1:], features[1:])
        # a zero that was measured is not a gap
        hidden = mask.clone()
        hidden[1] = False
        assert not torch.allclose(network(torch.zeros_like(x), hidden)[1], network(torch.zeros_like(x), mask)[1])


@pytest.mark.parametrize("summary", [Conv1d(), Conv1d(layers=1), Transformer(), DeepSet()])
def test_a_mask_of_the_leading_axes_stands_for_all_that_follows(summary):
    spec = Observable((30, 2))
    network, (x, _) = build(summary, spec, True), sample(spec)
    steps = sample(Observable((30,)), seed=3)[1]
    with torch.no_grad():
        assert torch.equal(network(x, steps), network(x, expand_mask(steps, x.shape)))


@pytest.mark.parametrize("masked", [False, True])
def test_the_order_of_a_sets_items_does_not_matter(masked):
    spec = Observable((2, 15), dims=("feature", "item"))
    network, (x, mask) = build(DeepSet(), spec, masked), sample(spec)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one = network(x, mask if masked else None)
        other = network(x[:, :, order], mask[:, :, order] if masked else None)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("summary", [Conv1d(layers=2), Transformer()])
def test_planted_fault_a_network_that_knows_order_fails_the_test_of_a_set(summary):
    spec = Observable((15, 2), dims=("time", "feature"))
    network, (x, _) = build(summary, spec, False), sample(spec)
    with torch.no_grad():
        assert not torch.allclose(network(x), network(x.flip(1)), atol=1e-3)


def test_padding_a_set_changes_nothing():
    short, long = (Observable((n, 3), dims=("item", "feature")) for n in (10, 25))
    small, large = build(DeepSet(), short, True), build(DeepSet(), long, True)
    large.load_state_dict(small.state_dict())
    x, mask = sample(short)
    padded = torch.cat([x, torch.full((6, 15, 3), 9.0)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(6, 15, 3, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(large(padded, padded_mask), small(x, mask), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [slice(0, 6), slice(0, 1)], ids=["some rows empty", "all of them"])
def test_items_that_are_present_alone_tell_what_padded_ones_do(rows):
    spec = Observable((30, 3), dims=("item", "feature"))
    network, (x, mask) = build(DeepSet(), spec, True), sample(spec)
    mask[0] = False
    found = []
    for loops in (nullcontext(), without_loops()):
        with loops:
            features = network(x[rows], mask[rows])
            found.append((features, *torch.autograd.grad(features.sin().sum(), network.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shared", [True, False], ids=["the same rows", "rows of their own"])
def test_members_of_an_ensemble_see_what_each_sees_alone(shared):
    spec = Observable((30, 3), dims=("item", "feature"))
    members, (x, mask) = [build(DeepSet(), spec, True, seed=seed) for seed in range(2)], sample(spec)
    weights, _ = torch.func.stack_module_state(members)
    given, axis = ((x, mask), None) if shared else ((torch.stack([x, x]), torch.stack([mask, mask])), 0)
    with torch.no_grad():
        found = torch.func.vmap(
            lambda own, *seen: torch.func.functional_call(members[0], own, seen), in_dims=(0, axis, axis)
        )(weights, *given)
        torch.testing.assert_close(found, torch.stack([one(x, mask) for one in members]), atol=1e-5, rtol=1e-4)


def test_a_set_of_few_entries_costs_few():
    spec = Observable((1_000,), dims=("item",))
    network, x, seen = build(DeepSet(), spec, True), torch.zeros(2, 1_000), []
    network.phi.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    network(x, torch.arange(1_000) < torch.tensor([[3], [4]]))
    assert seen == [7]


@pytest.mark.parametrize("summary", [Conv1d(layers=1), Transformer()])
def test_padding_a_series_changes_nothing(summary):
    short, long = Observable((20, 2)), Observable((48, 2))
    small, large = build(summary, short, True), build(summary, long, True)
    large.load_state_dict(small.state_dict())
    x, mask = sample(short)
    mask[:, -2:] = False  # else a window of 5 steps that starts here would be cut off in the short series only
    padded = torch.cat([x, torch.full((6, 28, 2), 9.0)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(6, 28, 2, dtype=torch.bool)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(large(padded, padded_mask), small(x, mask), atol=1e-5, rtol=1e-4)


def with_lines(*channels):
    """Spectra (1, 60) of a line at each channel."""
    x = torch.zeros(1, 60)
    for channel in channels:
        x[0, channel - 1 : channel + 2] += torch.tensor([1.0, 2.0, 1.0])
    return x


def test_a_line_counts_wherever_it_stands():
    # the last 64 columns of the perceptron are mean and maximum over channels; the others say where
    network = build(Spectrum(), Observable((60,), dims=("energy",)), False)
    whole = build(Spectrum(), Observable((60,), dims=("energy",)), False)
    with torch.no_grad():
        network.head[0].weight[:, :-64] = 0.0
        torch.testing.assert_close(network(with_lines(20)), network(with_lines(33)))
        assert not torch.allclose(network(with_lines(20)), network(with_lines(20, 40)), atol=1e-4)
        assert not torch.allclose(whole(with_lines(20)), whole(with_lines(33)), atol=1e-4)  # it knows where, too
        network.head[0].weight[:, -64:] = 0.0  # the fault: nothing is pooled, and no line counts
        assert torch.equal(network(with_lines(20)), network(with_lines(20, 40)))


def test_each_channel_is_told_of_the_whole_spectrum():
    network = build(Spectrum(), Observable((60,), dims=("energy",)), False)
    with torch.no_grad():
        network.head[0].weight.view(128, -1)[:, :60] = 0.0
        network.head[0].weight[:, -64:] = 0.0
        where = network.head[0].weight[:, 60:-64].view(128, 16, 20)
        where[..., :5] = 0.0
        where[..., 6:] = 0.0  # what is left is the place of channels 15 to 17, whose convolutions reach 8 channels

    def far():
        x = with_lines(16).requires_grad_()
        (slope,) = torch.autograd.grad(network(x).sum(), x)
        return float(slope[0, 40:].abs().max())

    assert far() > 1e-6
    with torch.no_grad():
        network.whole.weight.zero_()  # the fault
    assert far() == 0.0


def test_axes_may_come_in_any_order():
    first, last = Observable((3, 50), dims=("channel", "time")), Observable((50, 3), dims=("time", "channel"))
    x, _ = sample(first)
    for summary in (Conv1d(), Transformer(), Spectrum(axis="time")):
        with torch.no_grad():
            torch.testing.assert_close(build(summary, first, False)(x), build(summary, last, False)(x.movedim(1, 2)))
    front, back = Observable((2, 9, 12)), Observable((9, 12, 2), dims=("y", "x", "band"))
    x, _ = sample(front)
    with torch.no_grad():
        torch.testing.assert_close(build(CNN(), front, False)(x), build(CNN(), back, False)(x.movedim(1, 3)))


def test_plain_numbers_pass_as_they_are():
    x, mask = sample(Observable((2, 3)))
    network = build(MLP(hidden=()), Observable((2, 3)), False)
    assert network.features == 6
    assert torch.equal(network(x), x.reshape(6, 6))
    network = build(MLP(hidden=()), Observable((2, 3)), True)
    assert network.features == 12
    assert torch.equal(network(x, mask)[:, 6:], mask.reshape(6, 6).float())


@each_case
def test_rebuilt_from_json(summary, spec):
    again = from_json(json.loads(json.dumps(to_json(summary))))
    assert to_json(again) == to_json(summary)
    x, mask = sample(spec)
    with torch.no_grad():
        assert torch.equal(build(again, spec, True)(x, mask), build(summary, spec, True)(x, mask))


@pytest.mark.parametrize(
    ("spec", "masked", "kind"),
    [
        (Observable(), False, MLP),
        (Observable((8,)), False, MLP),
        (Observable((21, 2), dims=("time", "species")), False, MLP),
        (Observable((21, 2), dims=("time", "species")), True, Conv1d),
        (Observable((500,), dims=("time",)), False, Conv1d),
        (Observable((4,), dims=("item",)), False, DeepSet),
        (Observable((50, 30), dims=("item", "time")), True, DeepSet),
        (Observable((32, 32), dims=("y", "x")), False, CNN),
        (Observable((32, 32, 3), dims=("row", "column", "band")), True, CNN),
        (Observable((300,)), False, MLP),
        (Observable((4,)), True, MLP),
    ],
)
def test_choice(spec, masked, kind):
    chosen = choose(spec, masked)
    assert type(chosen) is kind
    x, mask = sample(spec)
    network = build(chosen, spec, masked)
    assert network(x, mask if masked else None).shape == (6, network.features)


def test_tiny_vectors_pass_unchanged_and_others_do_not():
    assert build(choose(Observable((10,)), False), Observable((10,)), False).features == 10
    assert build(choose(Observable((11,)), False), Observable((11,)), False).features == 32


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="none of the axes"):
        Conv1d().build(Observable((9,), dims=("item",)), masked=False)
    with pytest.raises(ValueError, match="plain number"):
        DeepSet().build(Observable(), masked=False)
    with pytest.raises(ValueError, match="two axes"):
        CNN().build(Observable((9,)), masked=False)
    for make in (
        lambda: MLP(hidden=(0,)),
        lambda: CNN(channels=()),
        lambda: DeepSet(features=0),
        lambda: Conv1d(layers=0),
        lambda: Spectrum(hidden=0),
    ):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            make()
    with pytest.raises(ValueError, match="odd"):
        Conv1d(kernel=4)
    with pytest.raises(ValueError, match="odd"):
        Spectrum(kernel=6)
    with pytest.raises(ValueError, match="none of the axes"):
        Spectrum(axis="energy").build(Observable((60,), dims=("time",)), masked=False)
    with pytest.raises(ValueError, match="multiple of heads"):
        Transformer(width=10, heads=4)
    network = MLP().build(Observable((3,)), masked=True)
    with pytest.raises(ValueError, match="built with a mask"):
        network(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="built for"):
        network(torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="or its leading axes"):
        network(torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool))
