"""Values that were seen at times of their own: one network sees both, and times keep the proportions of their spans."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf import Flow, Normal, Observable, Prior, Recipe, build_posterior, simulate, train, wrappers
from sciinf.core import Batch
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.timed import beside_times, mask_beside_times, timed_names, with_times
from sciinf.training.estimators._embedded import data_names

T = 12
SEEN = {"y": Observable((T,), "mV"), "y_times": Observable((T,), "s", dtype="float64")}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_times_are_no_data_by_themselves():
    assert timed_names(SEEN) == ("y",)
    assert data_names(SEEN) == ("y",)
    assert timed_names({"y": SEEN["y"], "y_times": Observable((3,), dtype="float64")}) == ()
    assert timed_names({"y": SEEN["y"], "y_times": Observable((T,))}) == ()  # data of float32, as in older fits
    assert data_names({"y_times": SEEN["y_times"]}) == ("y_times",)
    assert with_times(Observable((T, 2))).shape == (T, 4)


def test_times_are_scaled_by_one_span_whatever_their_axis_is_called():
    """Times 0 to 11 for all rows: each step by itself would have no spread at all."""
    times = torch.arange(float(T)).expand(50, -1)
    standard = Standardise(SEEN)
    rows = Batch(torch.zeros(50, 1), {"y": torch.randn(50, T, generator=generator()), "y_times": times.double()})
    standard.fit(lambda: iter([rows]))
    z = standard({"y": times, "y_times": times})["y_times"][0]
    torch.testing.assert_close(z.diff(), z.diff()[:1].expand(T - 1), rtol=1e-4, atol=0)
    assert float(z.std(correction=0)) == pytest.approx(1.0, rel=1e-3)


def test_channels_are_values_times_and_gaps():
    times = torch.tensor([[-1.0, -1.0, 1.0]])
    seen = beside_times(torch.tensor([[[5.0, 6.0]] * 3]), times)
    assert seen.shape == (1, 3, 4)
    torch.testing.assert_close(seen[..., :3], torch.cat([torch.tensor([[[5.0, 6.0]] * 3]), times[..., None]], -1))
    assert seen[0, 0, 3] == seen[0, 1, 3] < seen[0, 2, 3]


def test_a_mask_of_numbers_leaves_times_where_any_was_seen():
    mask = torch.tensor([[[True, False], [False, False]]])
    assert mask_beside_times(mask, Observable((2, 2))).tolist() == [[[True, False, True, True], [False] * 4]]
    assert mask_beside_times(mask[..., 0], Observable((2, 2))) is not None


def slope_at_times(slope, rng):
    t = np.sort(rng.uniform(0, 10, T))
    return {"y": slope * t + rng.normal(size=T), "y_times": t}


@pytest.mark.slow
def test_a_posterior_uses_when_each_value_was_seen(tmp_path):
    """y = slope t + noise of sd 1 at random times: the posterior is normal, its sd some 0.05 of the prior's.

    Means are off by some 0.5 sd (root mean square over 300 records) after this short training, by 4 and more where the
    times are those of other records.
    """
    simulator = wrappers.numpy(slope_at_times, Prior(slope=Normal(0.0, 1.0)), SEEN)
    store = simulate(simulator, tmp_path / "store", 2_500, seed=0, progress=False)
    fit = train(Flow(simulator.prior, SEEN), store, tmp_path / "fit", recipe=Recipe(epochs=16), progress=False)
    fresh = simulate(simulator, tmp_path / "fresh", 300, seed=1, progress=False).load(slice(0, 300))
    t, y = fresh.x["y_times"].double(), fresh.x["y"].double()
    precision = 1 + t.square().sum(1)
    mean, sd = (t * y).sum(1) / precision, precision.rsqrt()

    def off(x):
        drawn = build_posterior(fit).draw_batched(x, 400, generator=generator(7))[..., 0].double()
        return float(((drawn.mean(0) - mean) / sd).square().mean().sqrt()), float((drawn.std(0) / sd).mean())

    error, ratio = off(fresh.x)
    faulty, _ = off({**fresh.x, "y_times": fresh.x["y_times"].roll(1, 0)})
    assert error < 1.0
    assert 0.8 < ratio < 1.6
    assert faulty > 3
