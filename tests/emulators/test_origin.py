"""The encoder that is the decoder's slope at 0, against linear decoders, of which the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from emulators.test_field_code import SMALL, Front, frames, generator

from sciinf import Recipe, load_fit, simulate, train
from sciinf.emulators import FieldCode, Origin
from sciinf.emulators.encoders import GridEncoder, places
from sciinf.emulators.origin import _Slope

pytestmark = pytest.mark.filterwarnings("ignore:held-out simulations show")  # its training is short
POINTS, NUMBERS, NOISE = 24, 3, 0.5


def basis(*, orthogonal=True):
    """W of columns of unlike sizes, float64."""
    found = torch.randn(POINTS, NUMBERS, generator=generator(3), dtype=torch.float64)
    found = torch.linalg.qr(found)[0] if orthogonal else found
    return found * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)


def encoder(w, *, solved, noise=NOISE):
    """What its gains and ridges are to be, that it is exact for a linear decoder."""
    network = Origin(solved=solved).build(1, (POINTS,), 2 * NUMBERS, edges=False).double()
    size = w.square().sum(0).mean() / len(w)
    with torch.no_grad():
        if solved:
            network.log_gain.fill_(-math.log(size) / 2)
            network.log_ridge.fill_(math.log(noise**2 / len(w) / size))
        else:
            network.log_gain.copy_((len(w) * size.sqrt() / (noise**2 + w.square().sum(0))).log())
    return network


def means(network, w, v):
    return network(v[:, None], None, lambda z: (1.0 + z @ w.mT)[:, None])[:, :NUMBERS]


def posterior(w, v, noise=NOISE):
    precision = torch.eye(NUMBERS, dtype=w.dtype) + w.mT @ w / noise**2
    return torch.linalg.solve(precision, ((v - 1.0) @ w / noise**2).mT).mT


def test_one_step_is_the_exact_posterior_of_a_linear_decoder_whose_columns_are_orthogonal():
    w, v = basis(), torch.randn(7, POINTS, generator=generator(4), dtype=torch.float64)
    exact = v @ w - w.sum(0)  # W^T (v - f(0)), in units of what each number has
    slope = means(encoder(w, solved=False), w, v)
    assert torch.allclose(slope, exact / (NOISE**2 + w.square().sum(0)), atol=1e-10)
    assert torch.allclose(slope, posterior(w, v), atol=1e-10)


@pytest.mark.parametrize("few", [POINTS, 5])
def test_least_squares_are_exact_for_any_linear_decoder_from_any_points(few):
    """Ridges as the network has them are relative to the mean square of slopes: of unlike prior sds none is meant."""
    w, v = basis(orthogonal=False)[:few], torch.randn(7, few, generator=generator(4), dtype=torch.float64)
    assert torch.allclose(means(encoder(w, solved=True), w, v), posterior(w, v), atol=1e-9)
    bare = means(encoder(w, solved=False), w, v).detach()  # the idea taken out
    assert float((bare - posterior(w, v)).norm() / posterior(w, v).norm()) > 0.2


@pytest.mark.parametrize("solved", [False, True])
def test_codes_are_as_large_as_numbers_are_however_flat_the_decoder_is(solved):
    w, v = basis(), torch.randn(200, POINTS, generator=generator(4), dtype=torch.float64)
    network = Origin(solved=solved).build(1, (POINTS,), 2 * NUMBERS, edges=False).double()
    usual, flat = means(network, w, v), means(network, 1e-4 * w, v)
    assert torch.allclose(usual, flat, rtol=1e-6)
    assert 0.05 < float(flat.detach().std()) < 2


@pytest.mark.parametrize("solved", [False, True])
def test_gradients_go_through_the_slope(solved):
    """Of the loss of what is decoded from z, by the decoder's weights, against finite differences."""
    v = torch.randn(4, POINTS, generator=generator(4), dtype=torch.float64)
    network = encoder(basis(), solved=solved)
    inner = torch.randn(5, NUMBERS, generator=generator(5), dtype=torch.float64)
    outer = torch.randn(POINTS, 5, generator=generator(6), dtype=torch.float64)

    def loss(inner, outer, gain):
        network.log_gain.data = gain

        def decode(z):
            return ((z @ inner.mT).tanh() @ outer.mT)[:, None]

        z = torch.func.functional_call(network, {"log_gain": gain}, (v[:, None], None, decode))[:, :NUMBERS]
        return (decode(z)[:, 0] - v).square().mean()

    leaves = [t.clone().requires_grad_() for t in (inner, outer, network.log_gain.detach())]
    assert torch.autograd.gradcheck(loss, leaves, atol=1e-6)
    with torch.no_grad():  # and codes are the same where none is kept
        still = network(v[:, None], None, lambda z: (z @ inner.mT @ outer[:, :5].mT)[:, None])
    assert torch.equal(still, network(v[:, None], None, lambda z: (z @ inner.mT @ outer[:, :5].mT)[:, None]))


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    equation, root = Front(), tmp_path_factory.mktemp("origin")
    store = simulate(equation, root / "store", 300, seed=0, progress=False)
    code = FieldCode(equation.prior, equation.observables, Origin(), SMALL[1], numbers=6, frames=3, points=16)
    return train(code, store, root / "fit", recipe=Recipe(epochs=16, batch=20), progress=False)


@pytest.mark.slow
def test_fronts_are_coded_from_any_points_without_an_encoder_network(fit):
    code, true = fit.learned, frames(Front())
    assert isinstance(code.encoder, _Slope)
    grid = GridEncoder(8).build(1, (32,), 12, edges=False)
    own, others = (sum(p.numel() for p in network.parameters()) for network in (code.encoder, grid))
    assert own == 18 < 0.01 * others
    order = torch.randperm(32, generator=generator(1))
    at = places((32,), edges=False)[order]
    with torch.no_grad():
        whole = code.encode(true)
        assert torch.allclose(code.encode(true[..., order], at), whole, atol=1e-3)
        found = code.decode(code.encode(true[..., order[:16]], at[:16]))
        elsewhere = code.encode(true[..., order[:16]], at[16:])
    off = float((found - true).square().mean().sqrt() / true.std())
    mean = float((true.mean(0) - true).square().mean().sqrt() / true.std())
    assert off < 0.35 < 0.9 < mean
    assert not torch.allclose(elsewhere, whole, atol=0.3)


@pytest.mark.slow
def test_a_fit_with_it_is_read_back_to_the_same_bits(fit):
    true, again = frames(Front(), 5), load_fit(fit.folder).learned
    assert torch.equal(again.encode(true), fit.learned.encode(true))
    assert not again.parts[0].solved or again.encoder.log_ridge is not None
