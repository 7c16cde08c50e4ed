"""The encoder by messages: what is near, which way messages go, and fronts that it codes from a few points."""

from __future__ import annotations

import pytest
import torch
from emulators.test_field_code import SMALL, Front, frames, generator, off

from sciinf import Recipe, load_fit, simulate, train
from sciinf.emulators import FieldCode, Graph
from sciinf.emulators.encoders import places
from sciinf.emulators.graph import near

pytestmark = pytest.mark.filterwarnings("ignore:held-out simulations show")  # its training is short


def network(space=(32,), *, edges=False, of=None, channels=1):
    torch.manual_seed(0)
    return (of or Graph(4, 8)).build(channels, space, 6, edges=edges)


@pytest.mark.parametrize("edges", [False, True])
def test_the_nearest_points_are_found_around_the_box_or_not(edges):
    points = torch.rand(40, 2, generator=generator())
    to = torch.rand(9, 2, generator=generator(1))
    found = near(to, points, 6, 0.1, edges=edges)
    shifts = torch.tensor([0.0]) if edges else torch.tensor([-1.0, 0.0, 1.0])
    copies = torch.cartesian_prod(shifts, shifts).reshape(-1, 2)
    away = (points + copies[:, None] - to[:, None, None]).norm(dim=-1).amin(1)  # by all copies of the box
    order = away.argsort(1)[:, :7]
    assert torch.equal(found.which.sort(1).values, order.sort(1).values)
    assert torch.allclose(found.away.norm(dim=-1), 10 * away.gather(1, found.which), atol=1e-5)
    assert torch.allclose(found.weight.sum(1), torch.ones(9))
    assert float(found.weight[:, -1].max()) < 1e-5  # the seventh only tells where the weight is 0
    due = (1 - (away.gather(1, order) / away.gather(1, order[:, -1:])).square()).square()
    assert torch.allclose(found.weight, due / due.sum(1, keepdim=True), atol=1e-5)


def test_few_points_and_points_that_are_all_as_far_away_count():
    two = near(torch.tensor([[0.5]]), torch.tensor([[0.4], [0.6]]), 1, 1.0, edges=True)
    assert torch.allclose(two.weight, torch.tensor([[0.5, 0.5]]))
    one = near(torch.tensor([[0.5]]), torch.tensor([[0.4]]), 8, 1.0, edges=True)
    assert one.weight.tolist() == [[1.0]]
    assert bool(network()(torch.ones(2, 1, 1), torch.tensor([[0.3]]), torch.zeros_like).isfinite().all())


def test_messages_cross_the_seam_of_a_ring_and_no_edge():
    """What changes at 0.97 is heard by the first node of a ring; in a box it is too far away."""
    for edges in (False, True):
        encoder = network(edges=edges, of=Graph(2, 8, 1))
        at = torch.arange(32)[:, None] / 32
        one = torch.randn(1, 1, 32, generator=generator())
        other = one.clone()
        other[..., 31] += 1.0
        with torch.no_grad():
            before, after = (encoder.gather(*heard(encoder, v, at)) for v in (one, other))
        changed = (after - before).abs().amax((0, 2)) > 1e-5
        assert bool(changed[-1])
        assert bool(changed[0]) is not edges
        assert not bool(changed[2:-2].any())


def heard(encoder, values, at):
    """What nodes hear from points that have heard each other."""
    about, own = encoder._near(at)
    hidden = encoder.enter(values.mT)
    for layer in encoder.points:
        hidden = layer(hidden, hidden, about)
    return hidden.new_zeros(len(hidden), len(encoder.lattice), hidden.shape[-1]), hidden, own


@pytest.mark.parametrize("space", [(32,), (16, 16)])
def test_points_that_are_moved_by_a_step_of_the_lattice_are_known_by_the_next_node(space):
    encoder, axes = network(space, of=Graph(4, 8, nodes=4)), len(space)
    at, values = torch.rand(60, axes, generator=generator()), torch.randn(3, 1, 60, generator=generator(1))
    step = torch.tensor([0.25] + [0.0] * (axes - 1))
    with torch.no_grad():
        one, two = (encoder.known(values, where).unflatten(1, (4,) * axes) for where in (at, (at + step) % 1))
    assert torch.allclose(two, one.roll(1, 1), atol=1e-5)
    assert not torch.allclose(two, one, atol=1e-2)
    box = network(space, edges=True, of=Graph(4, 8, nodes=4))  # which ends
    with torch.no_grad():
        one, two = (box.known(values, where).unflatten(1, (4,) * axes) for where in (at, (at + step) % 1))
    assert not torch.allclose(two, one.roll(1, 1), atol=1e-2)


@pytest.mark.slow
def test_codes_change_smoothly_where_points_change_places():
    """A point is moved until others are nearer, in steps of 1/2000: without weights that fall to 0 codes would jump."""
    encoder, values = network(of=Graph(3, 8)), torch.randn(1, 1, 12, generator=generator(1))
    at = torch.rand(12, 1, generator=generator())
    found = []
    with torch.no_grad():
        for k in range(1_000):
            moved = at.clone()
            moved[0] = (at[0] + k / 2_000) % 1
            found.append(encoder(values, moved, torch.zeros_like))
    steps = torch.cat(found).diff(dim=0).norm(dim=1)
    assert float(steps.max()) < 0.05 * float(steps.sum())
    assert float(steps.max()) < 12 * float(steps.median())


def test_rows_are_coded_by_themselves():
    encoder, values = network((16, 8), channels=2), torch.randn(5, 2, 16, 8, generator=generator())
    with torch.no_grad():
        whole = encoder(values, None, torch.zeros_like)
        assert torch.allclose(encoder(values[3:4], None, torch.zeros_like), whole[3:4], atol=1e-6)
        flat = encoder(values.flatten(2), places((16, 8), edges=False), torch.zeros_like)
    assert torch.allclose(flat, whole, atol=1e-5)


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    equation, root = Front(), tmp_path_factory.mktemp("graph")
    store = simulate(equation, root / "store", 300, seed=0, progress=False)
    code = FieldCode(equation.prior, equation.observables, Graph(4, 16), SMALL[1], numbers=6, frames=3, points=16)
    return train(code, store, root / "fit", recipe=Recipe(epochs=30, batch=20), progress=False)


@pytest.mark.slow
def test_fronts_are_coded_from_random_points(fit):
    code, true = fit.learned, frames(Front())
    at = places((32,), edges=False)
    which = torch.randperm(32, generator=generator(1))[:16]
    with torch.no_grad():
        found = code.decode(code.encode(true[..., which], at[which]))
        shifted = code.decode(code.encode(true[..., which], at[which].roll(1, 0)))  # the fault: places in another order
        whole = code.decode(code.encode(true))
    assert off(found, true) < 0.35
    assert off(whole, true) < 0.35  # and from the grid, which it was not trained on
    assert off(shifted, true) > 0.7


@pytest.mark.slow
def test_a_fit_is_read_back_to_the_same_bits(fit):
    true, again = frames(Front(), 5), load_fit(fit.folder).learned
    assert torch.equal(again.encode(true), fit.learned.encode(true))
    at = places((32,), edges=False)[::3]
    assert torch.equal(again.encode(true[..., ::3], at), fit.learned.encode(true[..., ::3], at))


def test_what_does_not_suit_is_refused():
    for make, says in (
        (lambda: Graph(0), "neighbours"),
        (lambda: Graph(4, 0), "width"),
        (lambda: Graph(4, 8, 0), "layers"),
        (lambda: Graph(nodes=0), "nodes"),
        (lambda: Graph().build(1, (), 4, edges=False), "one direction or more"),
    ):
        with pytest.raises(ValueError, match=says):
            make()
