"""arviz itself reads what is written, with the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf.core import Draws, Observable
from sciinf.exports import to_datatree, write_netcdf

arviz = pytest.importorskip("arviz")


def read(path):
    """The groups as arviz reads them: InferenceData up to 0.23, a DataTree from 1.0 on."""
    return arviz.from_netcdf(path)


def test_plain_draws_come_back_in_order_with_units(tmp_path, plain_draws):
    data = read(write_netcdf(plain_draws, tmp_path / "draws.nc"))
    assert data["posterior"]["rate"].dims == ("chain", "draw")
    assert data["posterior"]["rate"].attrs["units"] == "1/h"
    for column, name in enumerate(plain_draws.names):
        np.testing.assert_array_equal(data["posterior"][name].values[0], plain_draws.theta[:, column].numpy())
    assert "weighted_posterior" not in list(data.groups() if callable(data.groups) else data.groups)


def test_arviz_summarises_what_is_written(tmp_path, plain_draws):
    data = read(write_netcdf(plain_draws, tmp_path / "draws.nc"))
    summary = arviz.summary(data, round_to="none")
    np.testing.assert_allclose(summary["mean"].to_numpy(float), plain_draws.mean().numpy(), rtol=1e-5)


def test_an_answer_has_data_predictions_and_verdicts(tmp_path, answer, observables):
    data = read(write_netcdf(answer, tmp_path / "answer.nc", observables=observables))
    np.testing.assert_array_equal(data["observed_data"]["counts"].values, answer.observation["counts"])
    np.testing.assert_array_equal(data["observed_data"]["seen_mask"].values, answer.observation["seen_mask"])
    assert data["observed_data"]["counts"].attrs["units"] == "mV"
    predictive = data["posterior_predictive"]["counts"]
    assert predictive.dims == ("chain", "draw", "counts_time")
    np.testing.assert_array_equal(predictive.values[0], answer.predictive["counts"])
    attributes = data["posterior"].attrs
    assert attributes["calibration_passed"] == 1
    assert attributes["trust"] == "looks like the simulations"
    assert attributes["log_evidence"] == -12.5


def test_coordinates_go_along(tmp_path, answer, observables):
    times = {"coords": {"time": (0.0, 0.5, 1.0, 2.0)}, "coord_units": {"time": "h"}}
    named = {**observables, "counts": Observable((4,), "mV", ("time",), **times)}
    data = read(write_netcdf(answer, tmp_path / "answer.nc", observables=named))
    for group in ("observed_data", "posterior_predictive"):
        assert data[group]["counts_time"].values.tolist() == [0.0, 0.5, 1.0, 2.0]
        assert data[group]["counts_time"].attrs["units"] == "h"


def test_weighted_draws_are_resampled_to_their_effective_size_and_kept_beside(answer, draws):
    """Systematic resampling moves a mean by less than 0.1 sd here (n = ESS > 100; seed fixed, no false alarms)."""
    tree = to_datatree(answer)
    posterior, weighted = tree["posterior"], tree["weighted_posterior"]
    assert posterior.sizes["draw"] == int(draws.ess) > 100
    means = np.array([float(posterior[name].mean()) for name in draws.names])
    np.testing.assert_array_less(np.abs(means - draws.mean().numpy()), 0.1 * draws.sd().numpy())
    np.testing.assert_array_equal(weighted["log_weight"].values[0], draws.log_weight.numpy())
    np.testing.assert_array_equal(weighted["offset"].values[0], draws.theta[:, 2].numpy())
    assert draws.theta[7, 0].item() not in posterior["rate"].values, "a draw of weight zero was kept"


def test_resampling_is_needed(draws):
    """The planted fault: weights ignored. These shift the mean of `rate` far more than resampling does."""
    heavy = Draws(draws.names, draws.units, draws.theta, draws.theta[:, 0].to(torch.float64))
    right = float(to_datatree(heavy)["posterior"]["rate"].mean())
    assert abs(right - float(heavy.mean()[0])) < 0.1 * float(heavy.sd()[0])
    assert abs(float(heavy.theta[:, 0].mean()) - float(heavy.mean()[0])) > 0.3 * float(heavy.sd()[0])


def test_the_generator_decides(draws):
    def of(seed: int) -> np.ndarray:
        return to_datatree(draws, n=50, generator=torch.Generator().manual_seed(seed))["posterior"]["rate"].values

    assert of(1).shape == (1, 50)
    np.testing.assert_array_equal(of(1), of(1))
    assert not np.array_equal(of(1), of(2))
    np.testing.assert_array_equal(to_datatree(draws)["posterior"]["rate"], to_datatree(draws)["posterior"]["rate"])


def test_slashes_become_dots_unless_two_names_would_meet(tmp_path):
    draws = Draws(("scope/mu", "b"), ("", "m"), torch.zeros(5, 2), torch.zeros(5))
    assert list(read(write_netcdf(draws, tmp_path / "d.nc"))["posterior"].data_vars) == ["scope.mu", "b"]
    twins = Draws(("a/b", "a.b"), ("", ""), torch.zeros(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match="not unique"):
        to_datatree(twins)


def test_wrong_sources_are_refused(draws):
    with pytest.raises(TypeError, match="Answer or Draws"):
        to_datatree(draws.theta)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        to_datatree(draws, n=0)
