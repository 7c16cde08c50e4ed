"""Draws and estimates in pandas and xarray: the same numbers, with their units."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sciinf.core import Answer, Corrected, Draws, Estimate, Trust

DRAWS = Draws(("rate", "offset"), ("1/h", ""), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, -1.0]), -3.0)


def test_draws_are_arrays_with_units_and_weights() -> None:
    found = DRAWS.to_dict(weighted=True)
    assert {name: values.tolist() for name, values in found["parameters"].items()} == {"rate": [1, 3], "offset": [2, 4]}
    assert found["units"] == {"rate": "1/h", "offset": ""}
    assert found["log_weight"].tolist() == [0, -1]
    found["parameters"]["rate"][:] = 0.0
    assert DRAWS.theta[0, 0] == 1.0, "the arrays are copies"


def test_draws_are_a_dataframe_with_units() -> None:
    frame = DRAWS.to_dataframe(weighted=True)
    assert list(frame) == ["rate", "offset", "log_weight"]
    assert frame["rate"].tolist() == [1.0, 3.0]
    assert frame[frame["rate"] > 1].attrs["units"] == {"rate": "1/h", "offset": ""}, "they survive a selection"
    assert frame["rate"].dtype == np.float32


def test_draws_are_a_dataset_with_units() -> None:
    data = DRAWS.to_xarray(weighted=True)
    assert (data["rate"].dims, data["rate"].attrs, data["rate"].values.tolist()) == (
        ("draw",),
        {"units": "1/h"},
        [1, 3],
    )
    assert data["log_weight"].values.tolist() == [0, -1]
    assert data.attrs["log_evidence"] == -3.0


def test_plain_means_of_a_container_are_those_of_weighted_draws() -> None:
    normal = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = Draws(("rate",), ("",), normal, normal[:, 0])  # exp(theta) N(theta; 0, 1) is N(theta; 1, 1)
    frame, data, arrays = draws.to_dataframe(), draws.to_xarray(), draws.to_dict()
    for values in (frame["rate"].to_numpy(), data["rate"].to_numpy(), arrays["parameters"]["rate"]):
        assert float(values.mean()) == pytest.approx(float(draws.mean()), abs=0.06)  # 4 sds of chance
    assert not frame["log_weight"].any()
    assert not data["log_weight"].any()
    assert not arrays["log_weight"].any()


def test_estimates_are_a_dataframe_with_what_was_before_them() -> None:
    corrected = Corrected((0.5, 3.5), (0.04, 0.97), 0.1, 0.05, local=False)
    now, before = (
        Estimate(2.0, 0.6, 2.1, (1.0, 3.0), 0.9, "1/h", corrected),
        Estimate(5.0, 1.0, 5.1, (4.0, 6.0), 0.9, "1/h"),
    )
    frame = Answer({"rate": now}, DRAWS, None, Trust(None, "", "unknown"), amortised={"rate": before}).to_dataframe()
    assert frame.loc["rate"].to_dict() == {
        **{"unit": "1/h", "median": 2.1, "low": 1.0, "high": 3.0, "mean": 2.0, "sd": 0.6},
        **{"uncorrected_median": 5.1, "uncorrected_low": 4.0, "uncorrected_high": 6.0},
        **{"corrected_low": 0.5, "corrected_high": 3.5},
    }
    said = frame.attrs.pop("sentence")
    assert said.startswith("Rely with care on this answer: ")
    assert frame.attrs == {"level": 0.9, "calibration": "not checked", "trust": "unknown", "verdict": "caution"}


@pytest.mark.parametrize(("package", "make"), [("pandas", Draws.to_dataframe), ("xarray", Draws.to_xarray)])
def test_what_is_not_installed_is_said(
    package: str, make: Callable[[Draws], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"this needs {package}, which is not installed: pip install {package}"):
        make(DRAWS)


def test_a_parameter_called_like_the_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="rename it in the prior"):
        Draws(("log_weight",), ("",), torch.zeros(2, 1), torch.zeros(2)).to_dataframe()
