"""Kalman's filter and smoother against statsmodels and against one large Gaussian."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from samplers.hidden import OU, Track
from torch import Tensor

from sciinf.simulators.dynamics.linear_states import Affine, LinearStates, root
from sciinf.simulators.dynamics.state_space import Record
from sciinf.simulators.samplers.kalman import filtered, paths, smoothed

THETA = {"q": torch.tensor([0.5, 1.3], dtype=torch.float64), "r": torch.tensor([0.7, 0.2], dtype=torch.float64)}
TIMES = torch.tensor([[0.0, 0.5, 0.6, 2.0, 3.5, 3.6]], dtype=torch.float64)


def record(times: Tensor, *, missing: float, rows: int = 2, begin: float | None = -0.5) -> Record:
    generator = torch.Generator().manual_seed(1)
    count = times.shape[-1]
    x = {name: torch.randn(rows, count, *e, generator=generator).double() for name, e in (("y", ()), ("pair", (2,)))}
    there = {name: torch.rand(v.shape, generator=generator) >= missing for name, v in x.items()}
    return Record(times, x, there if missing else {}, begin)


def dense(theta: dict[str, Tensor], seen: Record, row: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mean and covariance of all states given all numbers, the flat mean, and log p(x): by one Gaussian law."""
    one = {name: value[row : row + 1] for name, value in theta.items()}
    model = Track()
    mean, covariance = (part.double()[0] for part in model.start(one))
    count = seen.times.shape[-1]
    means, blocks = [], {}
    for k in range(count):
        start, stop = seen.step(k)
        pick = lambda t: t if isinstance(t, float) else float(t[row])  # noqa: E731
        law = model.step(one, pick(start), pick(stop))
        a, q = law.matrix[0].double(), law.covariance[0].double()
        mean = a @ mean + law.offset[0]
        for j in range(k):
            blocks[j, k] = blocks[j, k - 1] @ a.T
        covariance = a @ covariance @ a.T + q
        blocks[k, k] = covariance
        means.append(mean)
    whole = torch.zeros(2 * count, 2 * count, dtype=torch.float64)
    for (i, j), block in blocks.items():
        whole[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = block
        whole[2 * j : 2 * j + 2, 2 * i : 2 * i + 2] = block.T
    views = model.view(one)
    h = torch.cat([views[n].matrix[0] for n in ("y", "pair")])
    d = torch.cat([torch.as_tensor(views["y"].offset).expand(1), views["pair"].offset[0]])
    r = torch.block_diag(views["y"].covariance[0], views["pair"].covariance[0])
    x = torch.cat([seen.x["y"][row][:, None], seen.x["pair"][row]], -1).flatten()
    there = torch.ones_like(x, dtype=torch.bool)
    if seen.there:
        there = torch.cat([seen.there["y"][row][:, None], seen.there["pair"][row]], -1).flatten()
    big, noise = torch.block_diag(*[h] * count)[there], torch.block_diag(*[r] * count)[there][:, there]
    flat = torch.cat(means)
    spread = big @ whole @ big.T + noise
    law = torch.distributions.MultivariateNormal(big @ flat + d.repeat(count)[there], spread)
    gain = whole @ big.T @ torch.linalg.inv(spread)
    after = flat + gain @ (x[there] - law.mean)
    return after.reshape(count, 2), whole - gain @ big @ whole, flat, float(law.log_prob(x[there]))


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("own", [False, True])
def test_likelihood_and_smoother_are_those_of_the_joint_gaussian(missing: float, own: bool) -> None:
    times = torch.cat([TIMES, TIMES * 1.7]) if own else TIMES
    seen = record(times, missing=missing)
    found = filtered(Track(), THETA, seen)
    mean, covariance = smoothed(found)
    for row in range(2):
        after, spread, _, log = dense(THETA, seen, row)
        assert abs(float(found.log_likelihood[row]) - log) < 1e-8
        torch.testing.assert_close(mean[row], after, rtol=0, atol=1e-8)
        blocks = torch.stack([spread[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] for k in range(6)])
        torch.testing.assert_close(covariance[row], blocks, rtol=0, atol=1e-8)


def test_drawn_paths_have_the_law_of_the_joint_gaussian() -> None:
    """Means and covariances of 20,000 paths; each of 108 numbers within 5 standard errors: false alarms 1e-4."""
    n, seen = 20_000, record(TIMES, missing=0.3)
    one = {name: value[:1].expand(n) for name, value in THETA.items()}
    many = Record(TIMES, {k: v[:1].expand(n, *v.shape[1:]) for k, v in seen.x.items()},
                  {k: v[:1].expand(n, *v.shape[1:]) for k, v in seen.there.items()}, seen.begin)  # fmt: skip
    drawn = paths(filtered(Track(), one, many), generator=torch.Generator().manual_seed(2)).flatten(1)
    after, spread, _, _ = dense(THETA, seen, 0)
    sd = spread.diagonal().sqrt()
    assert float(((drawn.mean(0) - after.flatten()) / sd).abs().max()) < 5 / math.sqrt(n)
    error = (torch.outer(sd, sd).square() + spread.square()).sqrt() / math.sqrt(n)
    assert float(((torch.cov(drawn.T) - spread) / error).abs().max()) < 5


@pytest.mark.parametrize("missing", [False, True])
def test_likelihood_and_smoother_are_those_of_statsmodels(missing: bool) -> None:
    pytest.importorskip("statsmodels")
    from statsmodels.datasets import nile
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    y = nile.load_pandas().data.volume.to_numpy(float).copy()
    gone = np.random.default_rng(1).random(100) < (0.3 if missing else 0.0)
    y[gone] = np.nan
    peer = UnobservedComponents(y, "local level")
    peer.ssm.initialize_known(np.array([1000.0]), np.array([[90000.0]]))
    peer.ssm.loglikelihood_burn = 0
    for variances in ((15099.0, 1469.1), (8000.0, 4000.0)):
        result = peer.smooth(variances)
        seen = Record(
            torch.arange(100.0).double()[None],
            {"volume": torch.tensor(np.nan_to_num(y))[None]},
            {"volume": torch.tensor(~gone)[None]},
        )
        theta = {n: torch.tensor([v], dtype=torch.float64).sqrt() for n, v in zip("re", variances, strict=True)}
        found = filtered(_Level(), theta, seen)
        assert abs(float(found.log_likelihood) - result.llf) < 1e-8
        mean, covariance = smoothed(found)
        assert np.abs(mean[0, :, 0].numpy() - result.smoothed_state[0]).max() < 1e-8
        assert np.abs(covariance[0, :, 0, 0].numpy() / result.smoothed_state_cov[0, 0] - 1).max() < 1e-8


def test_a_row_alone_is_that_row_of_a_batch() -> None:
    seen = record(TIMES, missing=0.3)
    both = filtered(Track(), THETA, seen)
    for row in range(2):
        one = filtered(Track(), {n: v[row : row + 1] for n, v in THETA.items()}, seen.some(slice(row, row + 1)))
        torch.testing.assert_close(one.log_likelihood, both.log_likelihood[row : row + 1], rtol=1e-12, atol=0)
    assert torch.equal(filtered(Track(), THETA, seen, keep=False).log_likelihood, both.log_likelihood)


def test_a_state_that_moves_without_noise_is_smoothed() -> None:
    seen = Record(TIMES, {"volume": torch.ones(1, 6)}, {})
    theta = {"r": torch.ones(1), "e": torch.ones(1)}
    found = filtered(_Still(), theta, seen)
    mean, covariance = smoothed(found)
    assert float(mean.abs().max()) == float(covariance.abs().max()) == 0.0
    assert float(paths(found, generator=torch.Generator()).abs().max()) == 0.0
    assert abs(float(found.log_likelihood) + 3 + 6 * 0.5 * math.log(2 * math.pi)) < 1e-9


def test_bad_models_and_times_are_named() -> None:
    seen = Record(TIMES, {"y": torch.zeros(1, 6)}, {})
    good = {"k": torch.ones(1), "s": torch.ones(1), "r": torch.ones(1)}
    with pytest.raises(ValueError, match="times go backwards: 2 is followed by 1 .number 2."):
        Record(torch.tensor([[0.0, 2.0, 1.0]]), {"y": torch.zeros(1, 3)}, {})
    with pytest.raises(ValueError, match="begins at 1, after the first time 0"):
        Record(TIMES, {"y": torch.zeros(1, 6)}, {}, 1.0)
    with pytest.raises(ValueError, match="the model sees .'y'., the data have .'z'."):
        filtered(OU(), good, Record(TIMES, {"z": torch.zeros(1, 6)}, {}))
    with pytest.raises(ValueError, match="has a variance of -0.5"):
        filtered(OU(), {**good, "k": -torch.ones(1)}, seen)
    with pytest.raises(ValueError, match="at time 0 has no variance"):
        filtered(_Still(), {"r": torch.zeros(1), "e": torch.ones(1)}, Record(TIMES, {"volume": torch.ones(1, 6)}, {}))
    with pytest.raises(ValueError, match="2 numbers at a time, and the model's view 1"):
        filtered(OU(), good, Record(TIMES, {"y": torch.zeros(1, 6, 2)}, {}))
    with pytest.raises(ValueError, match="not symmetric"):
        root(torch.tensor([[[1.0, 0.5], [0.0, 1.0]]]), "Q")
    with pytest.raises(ValueError, match="direction of negative variance"):
        root(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]), "Q")


@pytest.mark.parametrize("way", ["one number", "two numbers", "a look that saw nothing between", "one number twice"])
def test_what_is_known_before_it_is_seen_is_refused_whatever_rounding_leaves(way: str) -> None:
    """100 sizes of the start, seen without noise and again before anything moved; rounding leaves 1e-27 to 1e-32."""
    size = torch.linspace(0.1, 5.0, 100, dtype=torch.float64)
    one = torch.tensor([[[1.3, 0.0]]]) if way != "two numbers" else torch.tensor([[[0.9, 1.7], [0.3, 1.1]]])
    if way == "one number twice":
        one = torch.tensor([[[1.3, 0.7], [1.3, 0.7]]]).double() * torch.tensor([[[1.0], [2.1]]]).double()
    seen, looks = one.shape[1], 1 if way == "one number twice" else 4
    times = torch.tensor([[0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([0.1, 0.4, 0.7, 0.9])[None, :, None].expand(1, 4, seen)
    there = torch.ones(1, 4, seen, dtype=torch.bool)
    if way == "a look that saw nothing between":
        there[:, 2] = False
    for row in range(100):
        theta = {"size": size[row : row + 1], "s": torch.tensor([0.7]).double()}
        with pytest.raises(ValueError, match="has no variance, as it is seen without noise and known before"):
            filtered(_Sharp(one), theta, Record(times[:, :looks], {"y": x[:, :looks]}, {"y": there[:, :looks]}))


def test_a_place_seen_without_noise_has_the_density_of_the_joint_gaussian() -> None:
    """A velocity that wanders, and looks 1e-2 apart: variances fall to 1e-9 of the start, and are real."""
    step, count = 1e-2, 5
    theta = {"size": torch.tensor([100.0]).double(), "s": torch.ones(1).double()}
    times = step * torch.arange(count, dtype=torch.float64)
    x = torch.tensor([0.2, 0.2, 0.4, 0.4, 0.3]).double()
    found = filtered(_Sharp(torch.tensor([[[1.0, 0.0]]])), theta, Record(times[None], {"y": x[None]}, {}))
    s, t = torch.minimum(times[:, None], times), torch.maximum(times[:, None], times)
    spread = 100.0 * (1 + s * t) + s**2 * (3 * t - s) / 6
    exact = torch.distributions.MultivariateNormal(torch.zeros(count).double(), spread).log_prob(x)
    assert abs(float(found.log_likelihood) - float(exact)) < 1e-5 * abs(float(exact))
    near = filtered(_Sharp(torch.tensor([[[1.0, 0.0]]])), theta, Record(times[None] * 1e-4, {"y": x[None]}, {}))
    assert bool(near.log_likelihood.isfinite().all()), "looks 1e-6 apart leave 1e-20 of the start"


class _Sharp(LinearStates):
    """A place and its velocity, which wanders by s; seen without noise."""

    latent = {"place": "m", "velocity": "m/s"}

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.double()

    def start(self, theta):
        return torch.zeros(1, 2), theta["size"][:, None, None] * torch.eye(2)

    def step(self, theta, start, stop):
        d = float(stop - start)
        noise = torch.tensor([[[d**3 / 3, d**2 / 2], [d**2 / 2, d]]]).double() * theta["s"][:, None, None] ** 2
        return Affine(torch.tensor([[[1.0, d], [0.0, 1.0]]]).double(), 0.0, noise)

    def view(self, theta):
        size = self.matrix.shape[1]
        return {"y": Affine(self.matrix, 0.0, torch.zeros(1, size, size))}


class _Level(LinearStates):
    latent = {"level": ""}

    def start(self, theta):
        return torch.tensor([[1000.0]]).double(), torch.tensor([[[90000.0]]]).double()

    def step(self, theta, start, stop):
        one = torch.ones_like(theta["e"])[:, None, None]
        return Affine(one, 0.0, theta["e"][:, None, None].square())

    def view(self, theta):
        return {"volume": Affine(torch.ones(1, 1, 1).double(), 0.0, theta["r"][:, None, None].square())}


class _Still(LinearStates):
    latent = {"level": ""}

    def start(self, theta):
        return torch.zeros(1, 1), torch.zeros(1, 1, 1)

    def step(self, theta, start, stop):
        return Affine(torch.ones(1, 1, 1), 0.0, torch.zeros(1, 1, 1))

    def view(self, theta):
        return {"volume": Affine(torch.ones(1, 1, 1).double(), 0.0, theta["r"][:, None, None].square())}
