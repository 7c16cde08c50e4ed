"""`answer.figure` draws what the report draws, of the answer alone, and says what it cannot."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from sciinf import Answer, Normal, Prior, wrappers
from sciinf.core import Calibration, Draws, Estimate, Observable, Strange, Trust
from sciinf.core.derived import with_derived
from sciinf.core.findings import Level
from sciinf.interfaces.figures.style import MUTED, VERMILION


@pytest.fixture(scope="module")
def answer() -> Answer:
    rng = np.random.default_rng(0)
    theta = torch.as_tensor(rng.normal(size=(500, 2)))
    draws = Draws(("rate", "size"), ("1/h", ""), theta, torch.zeros(500))
    found = {name: Estimate(0.0, 1.0, 0.0, (-1.6, 1.6), 0.9, "") for name in draws.names}
    levels = np.linspace(0.1, 0.9, 9)
    ranks = rng.integers(0, 100, (200, 2))
    calibration = Calibration(
        draws.names, ranks, 99, levels, levels, levels, {}, {}, "amortised", "0", "1", 0, "passed", ("well",)
    )
    return Answer(
        found,
        draws,
        calibration,
        Trust(0.01, "", Level.CAUTION, (Strange("flux", (1,), (2,), "number", 9.0),)),
        {"flux": np.array([0.0, 5.0, 0.2]), "level": np.array(1.0)},
        {"flux": rng.normal(size=(50, 3)), "level": rng.normal(size=50)},
        observables={
            "flux": Observable((3,), "mV", ("time",), coords={"time": [1900, 1901, 1902]}, coord_units={"time": "yr"}),
            "level": Observable(),
        },
        prior=Prior(rate=(Normal(0.0, 2.0), "1/h"), size=Normal(0.0, 3.0)),
    )


def colours(axes) -> set[str]:
    return {to_hex(line.get_color()) for line in axes.lines}


def test_a_corner_has_the_chosen_parameters_the_prior_and_the_truth(answer: Answer) -> None:
    assert len(answer.figure().axes) == 3
    axes = answer.figure("corner", names=["size"], truth={"size": 9.0}).axes[0]
    assert axes.get_xlabel() == "size"
    assert {MUTED, VERMILION} <= colours(axes)
    assert axes.get_xlim()[1] > 9.0
    assert MUTED not in colours(replace(answer, prior=None).figure(names=["size"]).axes[0])


def test_derived_quantities_are_further_columns_and_labels_stand_on_axes(answer: Answer) -> None:
    made = wrappers.numpy(lambda rate, size: rate, answer.prior, {"x": Observable()})
    made.derived = {"sum": (lambda theta: theta["rate"] + theta["size"] + 20, "1/h")}
    made.labels = {"rate": "decay rate", "sum": "a label that is far too long for one of three panels, and is cut"}
    figure = replace(answer, draws=with_derived(answer.draws, made)).figure(truth={"sum": 20.0})
    assert len(figure.axes) == 6
    assert [axes.get_xlabel()[:10] for axes in figure.axes[3:]] == ["decay rate", "size", "a label th"]
    assert figure.axes[5].get_xlabel().endswith("… [h⁻¹]")
    assert [MUTED in colours(figure.axes[i]) for i in (0, 2, 5)] == [True, True, False]  # the prior's curves
    grid, density = next(line for line in figure.axes[2].lines if to_hex(line.get_color()) == MUTED).get_data()
    np.testing.assert_allclose(density, np.exp(-0.5 * (grid / 3) ** 2) / (3 * np.sqrt(2 * np.pi)), rtol=1e-6)
    low, high = figure.axes[5].get_xlim()
    assert low < 20.0 < high
    assert low > 10.0


def test_a_prediction_stands_on_its_axis_with_what_is_strange(answer: Answer) -> None:
    axes = answer.figure("prediction", names=["flux"]).axes[0]
    assert "mV" in axes.get_ylabel()
    assert "yr" in axes.get_figure().axes[1].get_xlabel()  # below its residuals
    marked = [line for line in axes.lines if line.get_label() == "strange"]
    assert [line.get_xdata().tolist() for line in marked] == [[1901.0]]


def test_calibration_and_ranks(answer: Answer) -> None:
    assert [axes.get_title(loc="left") for axes in answer.figure("calibration").axes] == ["Coverage", "Difference"]
    panels = answer.figure("ranks", names=["size"]).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["size"]


def test_a_figure_is_saved_and_shown_on_white(answer: Answer) -> None:
    figure = answer.figure()
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    image = io.BytesIO()
    figure.savefig(image, format="pdf")
    assert image.getvalue().startswith(b"%PDF")
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "kind", "options", "words"),
    [
        (
            {},
            "corners",
            {},
            "one of 'corner', 'probabilities', 'prediction', 'paths', 'calibration', 'ranks', 'reliability', got",
        ),
        ({}, "corner", {"names": ["speed"]}, "no parameter 'speed'; there are rate, size"),
        ({}, "corner", {"names": []}, "names is empty"),
        ({}, "corner", {"truth": {"speed": 1.0}}, r"truth is given for \['speed'\], the answer has \['rate', 'size'\]"),
        ({}, "prediction", {}, r"give one of them: names=\['flux'\] \(there are flux, level\)"),
        ({}, "prediction", {"names": ["rate"]}, "no observable 'rate'; there are flux, level"),
        ({}, "ranks", {"truth": {"rate": 1.0}}, "truth is drawn in a corner plot"),
        ({}, "calibration", {"names": ["rate"]}, "draw kind 'ranks'"),
        ({"predictive": {}}, "prediction", {}, "no data were predicted .*simulator="),
        ({"calibration": None}, "calibration", {}, "has no calibration"),
    ],
)
def test_what_cannot_be_drawn_is_said(answer: Answer, change: dict, kind, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(answer, **change).figure(kind, **options)


def test_one_name_as_text_is_refused(answer: Answer) -> None:
    with pytest.raises(TypeError, match=r"names=\['rate'\]"):
        answer.figure(names="rate")
