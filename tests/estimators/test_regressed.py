"""Least squares in front of a flow: against exact posterior means, few rows, and what stands without it."""

from __future__ import annotations

import json
import weakref

import pytest
import torch
from torch import distributions as td

from sciinf.core import Batch, Observable, Prior, load_fit, save_fit
from sciinf.core.files import write_json
from sciinf.networks.summaries.vector import MLP
from sciinf.training.estimators import _embedded
from sciinf.training.estimators.flow import Flow

PRIOR = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0), sigma=td.LogNormal(0.0, 0.5))
SERIES = {"x": Observable((40,), dims=("time",))}
_T = torch.linspace(-1.0, 1.0, 40)
SIMULATOR = {"name": "toy", "source": "ab"}


def rows(n, seed=0):
    """A line with noise of unknown sd: theta (n, 3), x (n, 40)."""
    generator = torch.Generator().manual_seed(seed)
    theta = PRIOR.sample(n, generator=generator)
    line = theta[:, :1] + theta[:, 1:2] * _T
    return Batch(theta, {"x": line + theta[:, 2:] * torch.randn(n, 40, generator=generator)})


def guess(flow, batch):
    """h, the first columns of what least squares tell."""
    return flow.features(batch.x)[:, -flow.regressed.features :][:, : len(flow.prior)]


def explained(flow, batch):
    """R^2 of h for each parameter."""
    z = flow.to_z(batch.theta)
    return 1 - (z - guess(flow, batch)).square().mean(0) / z.var(0)


@pytest.fixture(scope="module")
def flow():
    flow = Flow(PRIOR, SERIES)
    flow.standardise(lambda: iter([rows(20_000)]))
    return flow.eval()


def test_the_guess_is_nearly_the_posterior_mean(flow):
    batch = rows(4_000, seed=1)
    design = torch.stack([torch.ones(40), _T], dim=1)
    precision = design.T @ design + torch.eye(2) * batch.theta[:, 2, None, None].square()
    # with the noise given, which is more than data tell
    exact = torch.linalg.solve(precision, (batch.x["x"] @ design)[..., None])[..., 0]
    left = (batch.theta[:, :2] - exact).square().mean(0)
    with torch.no_grad():
        found = (flow.to_z(batch.theta) - guess(flow, batch))[:, :2].square().mean(0) * flow.z_sd[:2].square()
    assert (found < 1.25 * left).all()


def test_what_the_fit_leaves_tells_the_noise():
    """40 residuals tell log sigma to 1 / sqrt(2 * 38) = .115 of a prior sd of .5; nothing is known of their order."""
    flow = Flow(PRIOR, {"x": Observable((40,), dims=("channel",))})
    flow.standardise(lambda: iter([rows(20_000)]))
    with torch.no_grad():
        assert explained(flow, rows(4_000, seed=1))[2] > 0.9  # .81 without statistics of residuals


def test_few_rows_do_not_fit_noise():
    generator = torch.Generator().manual_seed(0)

    def blind(n):  # data that know nothing of theta
        theta = PRIOR.sample(n, generator=generator)
        return Batch(theta, {"x": torch.randn(n, 40, generator=generator)})

    few, flow = blind(200), Flow(PRIOR, SERIES)
    flow.standardise(lambda: iter([few]))
    # four degrees of freedom of 200 rows lose .02; a plain fit of 52 columns loses 52 / 148 = .35
    assert (explained(flow, blind(4_000)) > -0.1).all()


def test_rows_beyond_the_most_are_not_read(monkeypatch):
    monkeypatch.setattr("sciinf.training.estimators._embedded._ROWS", 1_000)
    batch, flows = rows(1_400), []
    for parts in ([slice(0, 1_000)], [slice(0, 700), slice(700, 1_400)]):
        flow = Flow(PRIOR, SERIES)
        flow.standardise_both(lambda: iter([batch]))
        monkeypatch.setattr(flow, "standardise_both", lambda batches: None)
        flow.standardise(lambda parts=parts: (batch.rows(part) for part in parts))
        flows.append(flow)
    torch.testing.assert_close(flows[0].regressed.second, flows[1].regressed.second)


def test_sets_and_masks_enter_by_their_statistics():
    observables = {"x": Observable((30,), dims=("item",)), "x_mask": Observable((30,), dtype="bool", dims=("item",))}
    prior, generator = Prior(mu=td.Normal(0.0, 1.0), sigma=td.LogNormal(0.0, 0.5)), torch.Generator().manual_seed(0)

    def masked(n):
        theta = prior.sample(n, generator=generator)
        x = theta[:, :1] + theta[:, 1:] * torch.randn(n, 30, generator=generator)
        mask = torch.rand(n, 30, generator=generator) < 0.6
        return Batch(theta, {"x": torch.where(mask, x, 1e6), "x_mask": mask})

    flow, many = Flow(prior, observables), masked(8_000)
    flow.standardise(lambda: iter([many]))
    assert not flow.regressed.linear
    with torch.no_grad():
        assert (explained(flow, masked(2_000)) > torch.tensor([0.85, 0.8])).all()


def test_a_network_that_was_given_stands_alone_and_so_do_few_numbers():
    assert Flow(PRIOR, SERIES).regressed is not None
    assert Flow(PRIOR, SERIES, summary=MLP()).regressed is None
    assert Flow(PRIOR, SERIES, regression=False).regressed is None
    assert Flow(PRIOR, {"x": Observable((10,))}).regressed is None
    both = {"x": Observable((40,)), "y": Observable((40,))}
    assert list(Flow(PRIOR, both, summary={"y": MLP()}).regressed.specs) == ["x"]


def test_large_data_enter_by_their_statistics():
    flow = Flow(PRIOR, {"x": Observable((_embedded._MOST + 1,), dims=("time",))})
    assert not flow.regressed.linear
    assert flow.regressed.features == 3 + 18 + 24  # moments and steps, and the memory of the variance


def test_it_comes_back_to_the_bit(flow, tmp_path):
    save_fit(tmp_path, flow, simulator=SIMULATOR, record={})
    batch = rows(5, seed=2)
    assert torch.equal(load_fit(tmp_path).estimator.features(batch.x), flow.features(batch.x))


def test_a_fit_from_before_least_squares_is_read_as_it_was(tmp_path):
    old = Flow(PRIOR, SERIES, regression=False).eval()
    save_fit(tmp_path, old, simulator=SIMULATOR, record={})
    file = tmp_path / "fit.json"
    data = json.loads(file.read_text())
    del data["estimator"]["arguments"]["regression"]
    from sciinf.core.fit import _digest

    digest = _digest((tmp_path / "model.safetensors").read_bytes(), data["estimator"])
    write_json(file, {**data, "schema": 1, "digest": digest})
    found, batch = load_fit(tmp_path).estimator, rows(5, seed=2)
    assert torch.equal(found.features(batch.x), old.features(batch.x))


def test_a_fit_whose_statistics_were_fewer_asks_for_another_training(tmp_path):
    save_fit(tmp_path, Flow(PRIOR, SERIES), simulator=SIMULATOR, record={})
    from safetensors.torch import load, save

    from sciinf.core.fit import _digest

    data, file = json.loads((tmp_path / "fit.json").read_text()), tmp_path / "model.safetensors"
    weights = load(file.read_bytes())
    file.write_bytes(save({k: v[:-8].contiguous() if k == "regressed.plain_sd" else v for k, v in weights.items()}))
    digest = _digest(file.read_bytes(), data["estimator"])
    write_json(tmp_path / "fit.json", {**data, "schema": 2, "digest": digest})
    with pytest.raises(ValueError, match="format 2, in which networks were given fewer inputs for series; train again"):
        load_fit(tmp_path)


def test_least_squares_keep_no_more_than_a_batch_of_rows(monkeypatch):
    """Streamed rows are read because they do not fit in memory; nor do copies of them beside ones and statistics."""
    flow, batch, seen, copies = Flow(PRIOR, SERIES), rows(4_000), [], []
    flow.standardise_both(lambda: iter([batch]))
    beside = _embedded.Regressed._beside

    def copied(self, *given):
        found = beside(self, *given)
        copies.append(weakref.ref(found))
        return found

    def few_at_a_time():
        for start in range(0, 4_000, 250):
            assert all(sum(one() is not None for one in some) <= 2 for some in (seen, copies))
            part = batch.rows(slice(start, start + 250))
            u = flow.standardise_x(part.x)
            seen.append(weakref.ref(u["x"]))
            yield flow.to_z(part.theta), u, {}

    monkeypatch.setattr(_embedded.Regressed, "_beside", copied)
    flow.regressed.fit(few_at_a_time)
    assert len(seen) == 5 * 16


def test_other_rows_in_each_pass_are_refused():
    batch, generator = rows(400), torch.Generator().manual_seed(0)
    flow = Flow(PRIOR, SERIES)
    with pytest.raises(ValueError, match="the same rows, in the same order"):
        flow.standardise(lambda: iter([batch.rows(torch.randperm(400, generator=generator))]))
