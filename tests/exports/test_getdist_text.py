"""getdist reads the chains: weights, means, bounds, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core import Draws, Prior
from sciinf.interfaces.exports import write_getdist

getdist = pytest.importorskip("getdist")


def load(root):
    return getdist.loadMCSamples(str(root), no_cache=True)


def test_getdist_finds_the_same_weighted_means(tmp_path, draws, prior):
    samples = load(write_getdist(draws, tmp_path / "chain", prior=prior))
    assert samples.getParamNames().list() == list(draws.names)
    assert len(samples.weights) == 399, "the draw of weight zero should be left out"
    np.testing.assert_allclose(samples.getMeans(), draws.mean().numpy(), rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(samples.getVars()), draws.sd().numpy(), rtol=1e-6)
    assert samples.getEffectiveSamplesGaussianKDE(0) == pytest.approx(draws.ess, rel=1e-6)


def test_an_answer_has_its_verdict_beside_the_samples(tmp_path, answer, draws):
    load(write_getdist(answer, tmp_path / "chain"))  # which passes over it
    words = (tmp_path / "chain.properties.ini").read_text()
    assert f"sciinf_verdict = caution\nsciinf_sentence = {answer.verdict.sentence}\n" in words
    write_getdist(draws, tmp_path / "draws")
    assert "verdict" not in (tmp_path / "draws.properties.ini").read_text()


def test_plain_means_would_differ(tmp_path, draws):
    """The planted fault: weights dropped."""
    bare = Draws(draws.names, draws.units, draws.theta, torch.zeros(len(draws)))
    means = load(write_getdist(bare, tmp_path / "bare")).getMeans()
    assert not np.allclose(means, draws.mean().numpy(), rtol=1e-3)


def test_bounds_and_labels_reach_getdist(tmp_path, draws, prior):
    samples = load(write_getdist(draws, tmp_path / "chain", prior=prior))
    assert (samples.ranges.getLower("mass_1"), samples.ranges.getUpper("mass_1")) == (5.0, 50.0)
    assert (samples.ranges.getLower("depth"), samples.ranges.getUpper("depth")) == (0.0, None)
    assert (samples.ranges.getLower("offset"), samples.ranges.getUpper("offset")) == (None, None)
    assert samples.parLabel("mass_1") == r"\mathrm{mass\_1}\,[\mathrm{M_{\odot}}]"
    assert samples.parLabel("offset") == r"\mathrm{offset}"


def test_a_joint_prior_has_no_ranges(tmp_path):
    prior = Prior.joint(["a", "b"], td.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    theta = prior.sample(100, generator=torch.Generator().manual_seed(0))
    samples = load(write_getdist(Draws(prior.names, prior.units, theta, torch.zeros(100)), tmp_path / "j", prior=prior))
    assert samples.ranges.getLower("a") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_digits_are_kept(tmp_path, draws, dtype):
    theta = draws.theta.to(dtype) / 3
    write_getdist(Draws(draws.names, draws.units, theta, torch.zeros(400)), tmp_path / "d")
    rows = np.loadtxt(tmp_path / "d_1.txt")
    np.testing.assert_array_equal(rows[:, 2:].astype(theta.numpy().dtype), theta.numpy())


@pytest.mark.parametrize("other", ["c.txt", "c_2.txt", "c_17.txt"])
def test_chains_that_getdist_would_read_besides_are_refused(tmp_path, plain_draws, other):
    for name in ("c.1.txt", "c_b_2.txt", "cc.txt", "c_1.txt"):
        (tmp_path / name).write_text("of another root, or to be overwritten")
    assert len(load(write_getdist(plain_draws, tmp_path / "c")).weights) == 400
    np.savetxt(tmp_path / other, np.ones((9, 6)))
    assert len(load(tmp_path / "c").weights) > 400, "the planted fault: getdist mixes them"
    with pytest.raises(ValueError, match="choose another root"):
        write_getdist(plain_draws, tmp_path / "c")


def test_names_getdist_cannot_read_are_refused(tmp_path, draws):
    for name in ("two words", "derived*"):
        with pytest.raises(ValueError, match="without whitespace"):
            write_getdist(Draws((name,), ("",), torch.zeros(2, 1), torch.zeros(2)), tmp_path / "bad")
    with pytest.raises(ValueError, match="same fit"):
        write_getdist(draws, tmp_path / "bad", prior=Prior(other=td.Normal(0.0, 1.0)))
    assert list(tmp_path.iterdir()) == []
