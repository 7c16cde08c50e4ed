"""Data over many powers of ten: what is standardised by arcsinh, what stays as it is, and what a network learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciinf.core import Batch, Observable
from sciinf.networks.summaries.standardise import Standardise

ROWS = 4_000


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(x: Tensor, spec: Observable) -> Standardise:
    standard = Standardise({"x": spec})
    standard.fit(lambda: iter([Batch(torch.zeros(len(x), 1), {"x": x})]))
    return standard


@pytest.mark.parametrize(
    ("x", "heavy"),
    [
        (normal(ROWS, 1), False),
        (normal(ROWS, 1).exp(), False),  # one power of ten
        ((normal(ROWS, 1) > 2.5).double(), False),  # a rare event has no tails
        ((3 * normal(ROWS, 1)).exp(), True),
        (normal(ROWS, 1) / normal(ROWS, 1, seed=1), True),  # Cauchy
        (-(3 * normal(ROWS, 1)).exp(), True),
        ((3 * normal(ROWS, 1) + 2).exp().floor(), True),  # counts
    ],
)
def test_what_has_heavy_tails(x: Tensor, heavy: bool) -> None:
    standard = fitted(x, Observable((1,), ""))
    assert bool(standard.get_buffer("x_scale") > 0) == heavy
    z = standard({"x": x}, torch.float64)["x"]
    order = x[:, 0].argsort()
    assert bool((z[order, 0].diff() >= 0).all()), "it is monotone"
    if heavy:
        assert float(z.std()) == pytest.approx(1.0, abs=0.05), "nothing is squashed"
    assert torch.allclose(standard.inverse({"x": z})["x"], x, rtol=1e-6, atol=1e-9)


def test_a_fit_without_heavy_tails_is_stored_as_before():
    plain, heavy = (fitted(x, Observable((1,), "")) for x in (normal(ROWS, 1), (3 * normal(ROWS, 1)).exp()))
    assert set(plain.state_dict()) == {"x_mean", "x_sd"}
    again = Standardise(plain.specs)
    again.load_state_dict(heavy.state_dict())
    assert torch.equal(again.get_buffer("x_scale"), heavy.get_buffer("x_scale"))
    again.load_state_dict(plain.state_dict())
    assert not again.get_buffer("x_scale").any()


def test_rounding_of_a_constant_has_no_tails():
    x = torch.rand(ROWS, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = (x / x.sum(1, keepdim=True)).sum(1, keepdim=True)
    standard = fitted(one, Observable((1,), "", dtype="float64"))
    assert not standard.get_buffer("x_scale").any()
    assert float(standard({"x": one + 1e-12}, torch.float64)["x"].abs().max()) < 1e-6
