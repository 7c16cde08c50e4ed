"""Standardisation against numpy on all rows at once, whatever the batches."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sciinf.core import Batch, Observable
from sciinf.networks.summaries.standardise import Standardise, squash

ROWS = 57


def passes(x, sizes):
    rows = len(next(iter(x.values())))
    edges = np.minimum(np.cumsum([0, *sizes, rows]), rows)
    batch = Batch(torch.zeros(rows, 1), x)
    return lambda: (batch.rows(slice(int(a), int(b))) for a, b in pairwise(edges))


def data(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "vector": 3e4 + torch.randn(ROWS, 4, generator=g) * torch.tensor([1.0, 10.0, 0.1, 100.0]),
        "series": torch.randn(ROWS, 3, 6, generator=g) * torch.tensor([1.0, 5.0, 20.0])[:, None] + 7,
        "days": 2_460_000.5 + 1e-4 * torch.randn(ROWS, generator=g, dtype=torch.float64),
        "counts": torch.randint(0, 9, (ROWS, 2), generator=g),
        "flag": torch.randint(0, 2, (ROWS,), generator=g).bool(),
        "constant": torch.full((ROWS, 2), 0.1),
    }


SPECS = {
    "vector": Observable((4,)),
    "series": Observable((3, 6), dims=("species", "time")),
    "days": Observable((), "d", dtype="float64"),
    "counts": Observable((2,), dtype="int64"),
    "flag": Observable((), dtype="bool"),
    "constant": Observable((2,)),
}


@pytest.mark.parametrize("sizes", [[ROWS], [1] * ROWS, [1, 50, 2, 0, 3], [40]])
def test_statistics_equal_those_of_all_rows(sizes):
    x, module = data(), Standardise(SPECS)
    module.fit(passes(x, sizes))
    for name, axes in {"vector": 0, "series": (0, 2), "days": 0, "counts": 0, "flag": 0}.items():
        whole = x[name].double().numpy()
        mean, sd = whole.mean(axes, keepdims=True)[0], whole.std(axes, keepdims=True)[0]
        np.testing.assert_allclose(module.get_buffer(f"{name}_mean"), mean, rtol=1e-12)
        np.testing.assert_allclose(module.get_buffer(f"{name}_sd"), sd, rtol=1e-6 if name == "days" else 1e-9)
        z = module(x)[name]
        assert z.dtype == torch.float32
        np.testing.assert_allclose(z, squash(torch.as_tensor((whole - mean) / sd)), atol=1e-5, rtol=1e-5)
    assert torch.equal(module.get_buffer("constant_sd"), torch.ones(2, dtype=torch.float64))
    assert float(module(x)["constant"].abs().max()) < 1e-7


def test_a_date_keeps_digits_that_single_precision_has_not():
    # planted fault: losing the digits before the mean leaves nothing of a tenth of a millisecond in Julian days
    x, module = data(), Standardise(SPECS)
    module.fit(passes(x, [10]))
    z = (x["days"] - x["days"].mean()) / x["days"].std(correction=0)
    assert float((module(x)["days"] - z).abs().max()) < 1e-4
    faulty = x["days"].float() - module.get_buffer("days_mean").float()
    assert float((faulty / module.get_buffer("days_sd").float() - z).abs().max()) > 1


@pytest.mark.parametrize("leading", [True, False])
@pytest.mark.parametrize("sizes", [[ROWS], [1] * ROWS, [3, 31]])
def test_only_present_entries_count_and_missing_ones_are_zero(sizes, leading):
    g = torch.Generator().manual_seed(4)
    value = torch.randn(ROWS, 5, 2, generator=g) * 3 + 11
    mask = torch.rand(ROWS, *(5,) if leading else (5, 2), generator=g) < 0.6
    full = mask.unsqueeze(-1).expand(value.shape) if leading else mask
    dirty = torch.where(full, value, torch.tensor(float("nan")))
    specs = {
        "v": Observable((5, 2), dims=("time", "channel")),
        "v_mask": Observable(tuple(mask.shape[1:]), dtype="bool"),
    }
    module = Standardise(specs)
    module.fit(passes({"v": dirty, "v_mask": mask}, sizes))
    masked = np.ma.array(value.double().numpy(), mask=~full.numpy())
    np.testing.assert_allclose(module.get_buffer("v_mean")[0], masked.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(module.get_buffer("v_sd")[0], masked.std((0, 1)), rtol=1e-12)
    z = module({"v": dirty, "v_mask": mask})
    assert set(z) == {"v"}
    assert bool((z["v"][~full] == 0).all())
    clean = module({"v": torch.where(full, value, 0.0), "v_mask": mask})["v"]
    assert torch.equal(z["v"], clean)


def test_logarithms_are_taken_above_half_the_smallest_positive_entry():
    value = torch.tensor([[0.0, 2e-3], [5.0, -1.0], [40.0, 1e5]])
    module = Standardise({"v": Observable((2,), scale="log")})
    module.fit(passes({"v": value}, [1, 1]))
    assert float(module.get_buffer("v_floor")) == pytest.approx(1e-3)
    logs = np.log(np.array([[1e-3, 2e-3], [5.0, 1e-3], [40.0, 1e5]]))
    np.testing.assert_allclose(module({"v": value})["v"], (logs - logs.mean(0)) / logs.std(0), rtol=1e-5)


def test_logarithms_of_tiny_numbers():
    small = torch.tensor([[1e-200], [1e-210]], dtype=torch.float64)
    module = Standardise({"v": Observable((1,), dtype="float64", scale="log")})
    module.fit(passes({"v": small}, [2]))
    np.testing.assert_allclose(module({"v": small})["v"], [[1.0], [-1.0]], rtol=1e-6)
    single = Standardise({"v": Observable((1,), scale="log")})
    single.fit(passes({"v": torch.tensor([[1e-44], [1.0]])}, [2]))
    assert bool(single({"v": torch.zeros(1, 1)})["v"].isfinite().all())


def test_squash_is_monotone_smooth_and_finite():
    u = torch.linspace(-60, 60, 240_001, dtype=torch.float64, requires_grad=True)
    z = squash(u)
    assert bool((z.diff() > 0).all())
    assert torch.equal(z[u.abs() <= 5], u[u.abs() <= 5])
    torch.testing.assert_close(squash(-u), -z)
    (slope,) = torch.autograd.grad(z.sum(), u)
    assert float(slope.diff().abs().max()) < 2 * 5e-4  # |f''| <= 1 and the grid's step is 5e-4
    assert float(slope.min()) > 0
    assert float(squash(torch.tensor(54.0))) == pytest.approx(5 + math.log(50.0))
    assert bool(squash(torch.tensor([3e38, -3e38, torch.inf])).isfinite().all())


def test_a_heavy_tail_is_squashed_in_the_output():
    x = {"v": torch.cat([torch.zeros(999, 1), torch.full((1, 1), 1e9)])}
    module = Standardise({"v": Observable((1,))})
    module.fit(passes(x, [100]))
    assert 5 < float(module(x)["v"].max()) < 10


def test_entries_never_present_are_zero():
    specs = {"v": Observable((2,)), "v_mask": Observable((2,), dtype="bool")}
    mask = torch.tensor([[True, False]]).expand(4, 2)
    module = Standardise(specs)
    module.fit(passes({"v": torch.arange(8.0).reshape(4, 2), "v_mask": mask}, [2]))
    assert module.get_buffer("v_mean")[1] == 0
    assert module.get_buffer("v_sd")[1] == 1


def test_statistics_travel_with_the_weights():
    x, module, other = data(), Standardise(SPECS), Standardise(SPECS)
    module.fit(passes(x, [20]))
    other.load_state_dict(module.state_dict())
    for name, value in module(x).items():
        assert torch.equal(other(x)[name], value)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="the mask 'v_mask' has dtype float32"):
        Standardise({"v": Observable((2,)), "v_mask": Observable((2,))})
    with pytest.raises(ValueError, match=r"shape \(3,\); expected bool and \(2, 3\)"):
        Standardise({"v": Observable((2, 3)), "v_mask": Observable((3,), dtype="bool")})
    module = Standardise({"v": Observable((2,))})
    with pytest.raises(ValueError, match="no rows"):
        module.fit(lambda: iter([]))
    with pytest.raises(ValueError, match=r"lack the observable 'v'; they have \['w'\]"):
        module({"w": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"'v' has shape \(3,\) per row, expected \(2,\)"):
        module({"v": torch.zeros(1, 3)})
    log = Standardise({"v": Observable((1,), scale="log")})
    with pytest.raises(ValueError, match="no positive entry"):
        log.fit(passes({"v": torch.zeros(3, 1)}, [3]))
    with pytest.raises(ValueError, match="no rows"):
        log.fit(lambda: iter([]))
    with pytest.raises(ValueError, match="dot in its name"):
        Standardise({"a.b": Observable()})
