"""bilby reads the result, with the same draws, evidence and prior densities, and evaluates nothing."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core import Draws, Prior, Truncated
from sciinf.core.draws import almost_distinct
from sciinf.interfaces.exports import write_bilby

pytest.importorskip("bilby")
from bilby.core.result import read_in_result


def test_draws_and_evidence_come_back(tmp_path, answer, draws, prior):
    path = write_bilby(answer, tmp_path / "cell_result.json", label="cell", prior=prior)
    result = read_in_result(str(path))
    assert result.label == "cell"
    assert result.search_parameter_keys == list(draws.names)
    assert (result.log_evidence, result.log_evidence_err) == (-12.5, 0.04)
    assert 28 < len(result.posterior) == almost_distinct(draws) < draws.ess
    np.testing.assert_allclose(
        result.posterior["log_prior"],
        prior.log_prob(torch.tensor(result.posterior[list(draws.names)].to_numpy())),
        rtol=1e-5,
    )
    weights = result.nested_samples["weights"].to_numpy()
    np.testing.assert_allclose(weights @ result.nested_samples[list(draws.names)].to_numpy(), draws.mean(), rtol=1e-6)
    assert result.meta_data["sciinf"]["trust"] == "looks like the simulations"
    assert "nsamples" in str(result)


@pytest.mark.parametrize("known", [True, False], ids=["prior", "no_prior"])
@pytest.mark.parametrize("extension", ["json", "hdf5"])
def test_bilby_saves_what_it_read(tmp_path, answer, prior, extension, known):
    """A list of mappings in the meta data stops its HDF5, a result without priors both."""
    first = read_in_result(str(write_bilby(answer, tmp_path / "a_result.json", prior=prior if known else None)))
    first.save_to_file(filename=str(tmp_path / f"b_result.{extension}"), extension=extension)
    again = read_in_result(str(tmp_path / f"b_result.{extension}"))
    assert again.posterior[list(prior.names)].equals(first.posterior[list(prior.names)])
    assert again.meta_data["sciinf"] == first.meta_data["sciinf"]
    assert [law.unit for law in again.priors.values()] == [unit or None for unit in prior.units]
    assert (again.priors["mass_1"].maximum == 50.0) == known


def test_plain_draws_are_bilbys_posterior_as_they_are(tmp_path, plain_draws):
    result = read_in_result(str(write_bilby(plain_draws, tmp_path / "plain_result.json")))
    found = result.posterior[list(plain_draws.names)].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(found, plain_draws.theta.numpy())
    assert np.isnan(result.log_evidence)


def test_nested_weights_matter(draws):
    """The planted fault: a plain mean of the nested samples is not the posterior's."""
    plain = draws.theta.double().mean(0)
    assert not np.allclose(plain, draws.mean(), rtol=1e-3)


LAWS = {
    "uniform": td.Uniform(2.0, 5.0),
    "normal": td.Normal(3.0, 0.5),
    "lognormal": td.LogNormal(1.0, 0.2),
    "halfnormal": td.HalfNormal(2.0),
    "exponential": td.Exponential(0.5),
    "gamma": td.Gamma(3.0, 2.0),
    "beta": td.Beta(2.0, 3.0),
    "student": td.StudentT(4.0, 3.0, 0.5),
    "cauchy": td.Cauchy(3.0, 0.5),
    "truncated": Truncated(td.Normal(3.0, 0.5), low=2.5),
    "both": Truncated(td.Normal(3.0, 0.5), low=2.5, high=3.1),
}


@pytest.mark.parametrize("name", LAWS)
def test_bilbys_prior_has_our_density(tmp_path, name):
    prior = Prior(a=(LAWS[name], "m"))
    theta = prior.sample(20, generator=torch.Generator().manual_seed(0))
    draws = Draws(prior.names, prior.units, theta, torch.zeros(20))
    law = read_in_result(str(write_bilby(draws, tmp_path / "a_result.json", prior=prior))).priors["a"]
    assert law.unit == "m"
    np.testing.assert_allclose(law.prob(theta[:, 0].double().numpy()), prior.log_prob(theta).exp(), rtol=1e-6)


def test_laws_bilby_does_not_have_keep_their_bounds_and_stand_in_the_meta_data(tmp_path):
    prior = Prior(a=Truncated(td.LogNormal(0.0, 1.0), high=2.0), b=td.Laplace(0.0, 1.0))
    draws = Draws(prior.names, prior.units, torch.ones(5, 2), torch.zeros(5))
    result = read_in_result(str(write_bilby(draws, tmp_path / "a_result.json", prior=prior)))
    assert (result.priors["a"].minimum, result.priors["a"].maximum) == (0.0, 2.0)
    assert result.priors["b"].minimum == -np.inf
    back = Prior.from_json(json.loads(result.meta_data["sciinf"]["prior"]))
    torch.testing.assert_close(back.log_prob(draws.theta), prior.log_prob(draws.theta))


def test_reading_evaluates_nothing(tmp_path, monkeypatch):
    """bilby's parser of prior strings is built on `eval`; names that look like code must not reach it."""
    prior = Prior.joint(
        ["__import__('os').abort()", "print(1)"],
        td.MultivariateNormal(torch.zeros(2), torch.eye(2)),
    )
    draws = Draws(prior.names, prior.units, torch.zeros(5, 2), torch.zeros(5))
    path = write_bilby(draws, tmp_path / "x_result.json", prior=prior)

    def refuse(*args, **kwargs):
        raise AssertionError(f"evaluated {args!r}")

    monkeypatch.setattr(builtins, "eval", refuse)
    assert read_in_result(str(path)).search_parameter_keys == list(prior.names)


def test_a_prior_string_would_be_evaluated(tmp_path, plain_draws, monkeypatch):
    """The planted fault of the test above: the same file with a prior as a string does reach `eval`."""
    path = write_bilby(plain_draws, tmp_path / "x_result.json")
    data = json.loads(path.read_text())
    data["priors"] = dict.fromkeys(plain_draws.names, "Uniform(minimum=0, maximum=7)")
    path.write_text(json.dumps(data))
    called = []
    genuine = builtins.eval
    monkeypatch.setattr(builtins, "eval", lambda *args, **kwargs: called.append(args) or genuine(*args, **kwargs))
    read_in_result(str(path))
    assert called


def test_wrong_requests_are_refused(tmp_path, draws):
    with pytest.raises(ValueError, match=r"written as \.json"):
        write_bilby(draws, tmp_path / "x_result.pkl")
    with pytest.raises(ValueError, match="same fit"):
        write_bilby(draws, tmp_path / "x_result.json", prior=Prior(other=td.Normal(0.0, 1.0)))
