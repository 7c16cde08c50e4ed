"""Each kind of observable is drawn as what it is, with bands that hold what they say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinf.core import Answer, Draws, Estimate, Observable, Trust
from sciinf.interfaces.answer import save_answer
from sciinf.interfaces.figures.checked import Along, Checked
from sciinf.interfaces.figures.observed import covered
from sciinf.interfaces.figures.prediction import predicted_data
from sciinf.interfaces.figures.predictive import kind_of, predictive
from sciinf.interfaces.figures.run_folder import Run, read_runs
from sciinf.interfaces.figures.style import NARROW
from sciinf.interfaces.figures.svg import places, to_svg

RNG_SEED = 5


def checked(shape, dims=(), *, name="x", unit="mV", scale="linear", m=200, **change) -> Checked:
    rng = np.random.default_rng(RNG_SEED)
    observed, simulated = rng.normal(size=shape), rng.normal(size=(m, *shape))
    if scale == "log":
        observed, simulated = np.exp(3 * observed), np.exp(3 * simulated)
    return Checked(name, unit, dims, scale, change.get("observed", observed), change.get("simulated", simulated))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "shape", "kind"),
    [
        (("time",), (21,), "series"),
        (("time", "species"), (21, 2), "series"),
        (("channel", "time"), (3, 40), "series"),
        (("time",), (1,), "vector"),
        (("y", "x"), (8, 8), "image"),
        (("channel", "row", "column"), (3, 8, 8), "image"),
        (("item", "feature"), (30, 2), "set"),
        ((), (7,), "vector"),
        ((), (), "vector"),
    ],
)
def test_kind_follows_dims(dims, shape, kind):
    assert kind_of(checked(shape, dims)) == kind
    drawn = predictive(checked(shape, dims))
    assert drawn.kind == kind
    assert "<svg" in to_svg(drawn.figure, drawn.caption, "p")


def test_a_series_has_one_panel_per_species_with_bands_and_data():
    data = checked((21, 2), ("time", "species"), scale="log", unit="kg")
    figure = predictive(data).figure
    panels, residuals = figure.axes[:2], figure.axes[2:]
    assert [a.get_title(loc="left") for a in panels] == ["species 1", "species 2"]
    assert all(a.get_yscale() == "log" and len(a.collections) == 2 for a in panels)
    assert panels[0].get_ylabel() == "x [kg]"
    assert [a.get_xlabel() for a in residuals] == ["time (index)"] * 2
    for column, axes in enumerate(panels):
        dots = next(line for line in axes.lines if line.get_label() == "observed")
        np.testing.assert_allclose(dots.get_ydata(), data.observed[:, column])


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_residuals_are_what_the_median_leaves_over(scale):
    data = checked((15,), ("time",), scale=scale)
    middle = np.median(data.predictive, axis=0)
    below = predictive(data).figure.axes[1]
    left = next(line for line in below.lines if line.get_label() == "residual").get_ydata()
    expected = (
        data.observed / np.exp(np.median(np.log(data.predictive), axis=0)) if scale == "log" else data.observed - middle
    )
    np.testing.assert_allclose(left, expected)
    assert below.get_ylabel() == ("obs. / pred." if scale == "log" else "residual")


def test_what_has_numbers_along_an_axis_is_a_series_there():
    data = replace(checked((3,), ("wavelength",)), coords={"wavelength": Along((450.0, 550.0, 800.0), "nm")})
    drawn = predictive(data)
    assert drawn.kind == "series"
    assert drawn.figure.axes[1].get_xlabel() == "wavelength [nm]"
    points = next(line for line in drawn.figure.axes[0].lines if line.get_label() == "observed")
    assert points.get_xdata().tolist() == [450.0, 550.0, 800.0]


def test_an_image_has_its_coordinates():
    sky = {"y": Along((-1.0, 0.0, 1.0), "arcsec"), "x": Along((2.0, 4.0, 6.0, 8.0), "arcsec")}
    axes = predictive(replace(checked((3, 4), ("y", "x")), coords=sky)).figure.axes[0]
    assert axes.get_xlabel() == "x [arcsec]"
    at = dict(zip([t.get_text() for t in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert (at["2"], at["8"]) == (0.0, 3.0)


@pytest.mark.parametrize("dims", [("time", "band"), ("y", "x"), ("item",), ("channel",)])
def test_on_a_narrow_screen_a_figure_is_narrow(dims):
    shape = (12, 4)[: len(dims)]
    assert predictive(checked(shape, dims), NARROW).figure.get_figwidth() == NARROW


def test_the_band_holds_its_quantiles():
    data = checked((15,), ("time",), m=4000)
    wide = predictive(data).figure.axes[0].collections[0].get_paths()[0].vertices
    expected = np.quantile(data.predictive, (0.05, 0.95), axis=0)
    assert wide[:, 1].min() == pytest.approx(expected.min())
    assert wide[:, 1].max() == pytest.approx(expected.max())


def test_coverage_is_counted_and_a_wrong_model_shows():
    good, total = covered(checked((400,), m=2000))
    # Binomial(400, 0.9): outside 330..385 with probability below 1e-4.
    assert total == 400
    assert 330 <= good <= 385
    rng = np.random.default_rng(0)
    bad, _ = covered(checked((400,), observed=rng.normal(3.0, 1.0, 400), m=2000))
    assert bad < 100
    assert f"{good} of 400" in predictive(checked((400,), m=2000)).caption


def test_masked_entries_are_neither_drawn_nor_counted():
    data = checked((10,), ("time",))
    data.observed[3] = np.nan
    data.predictive[:, 6] = np.nan
    assert covered(data)[1] == 8
    line = next(line for line in predictive(data).figure.axes[0].lines if line.get_label() == "observed")
    assert np.isnan(line.get_ydata()[3])


def test_masked_images_and_sets_are_drawn():
    image = checked((6, 7), ("y", "x"))
    image.observed[2] = np.nan
    image.predictive[:, 2] = np.nan
    assert len([a for a in predictive(image).figure.axes if a.images]) == 3
    items = checked((30,), ("item",))
    items.observed[20:] = np.nan
    items.predictive[:, 25:] = np.nan
    curve = predictive(items).figure.axes[0].lines[0].get_ydata()
    assert curve[-1] == pytest.approx(1.0, abs=0.11)


def test_an_image_is_a_triptych_with_its_unit():
    drawn = predictive(checked((3, 12, 9), ("channel", "y", "x"), unit="Jy"))
    pictures = [a for a in drawn.figure.axes if a.images]
    assert len(pictures) == 9
    assert pictures[0].images[0].get_array().shape == (12, 9)
    assert "x [Jy]" in [a.get_xlabel() for a in drawn.figure.axes]


def test_what_is_not_drawn_is_said():
    assert "first 6 of 9" in predictive(checked((20, 9), ("time", "band"))).note
    assert "first 60 of 70" in predictive(checked((70,))).note
    assert "blocks of 2" in predictive(checked((200, 200), ("y", "x"), m=3)).note
    assert "first 3 of 4" in predictive(checked((4, 5, 5), ("channel", "y", "x"))).note
    assert predictive(checked((5,))).note == ""


def test_elements_of_very_different_sizes_are_standardised():
    size = np.array([1.0, 1e4, 1e-3])
    data = checked((3,))
    drawn = predictive(Checked("s", "", (), "linear", data.observed * size, data.predictive * size))
    assert "very different sizes" in drawn.note
    low, high = drawn.figure.axes[0].get_ylim()
    assert high - low < 20


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("constant", [False, True])
def test_a_single_number(scale, constant):
    data = checked((), scale=scale)
    simulated = np.full(50, 2.0) if constant else data.predictive
    figure = predictive(Checked("n", "erg", (), scale, data.observed, simulated)).figure
    assert figure.axes[0].get_xlabel() == "n [erg]"
    assert any(line.get_label() == "observed" for line in figure.axes[0].lines)


@pytest.mark.parametrize("dims", [("time",), ("band",), ("species",)])
def test_zeros_on_a_log_axis_are_drawn_at_zero_quietly(dims, recwarn):
    """Of the observation, and of a prediction that is nothing but zero, or zero in most of its simulations."""
    data = checked((8,), dims, scale="log")
    data.observed[:3] = 0.0
    data.predictive[:, 1], data.predictive[: len(data.predictive) * 3 // 4, 2] = 0.0, 0.0
    drawn = predictive(data)
    axes = drawn.figure.axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert lines["observed"][:3].tolist() == [0.0, 0.0, 0.0]
    assert drawn.kind != "series" or lines["predicted, median"][1:3].tolist() == [0.0, 0.0]
    low, high = axes.get_ylim()
    at = axes.transData.transform([(0, one) for one in (low, 0.0, data.observed[data.observed > 0].min(), high)])[:, 1]
    assert (np.diff(at) > 3).all(), "zero lies within the axes, below all other values"
    assert 0.0 in axes.get_yticks()
    to_svg(drawn.figure, "alt", "k")
    assert not [str(w.message) for w in recwarn]


def test_the_script_is_told_where_zero_lies():
    """The formula of report.js for an axis with a place for zero gives matplotlib's heights."""
    data = checked((8,), ("time",), scale="log")
    data.observed[0] = 0.0
    drawn = predictive(data)
    to_svg(drawn.figure, "alt", "k")
    ((*_, bottom, top, _, _, linear, room),) = places(drawn.figure, drawn.panels)
    values = np.array([bottom, 0.0, linear / 3, linear, 3 * linear, top])
    scaled = np.where(values > linear, room + np.log10(np.maximum(values, linear) / linear), room * values / linear)
    at = drawn.panels[0].transData.transform([(0, one) for one in values])[:, 1]
    assert np.allclose((scaled - scaled[0]) / np.ptp(scaled), (at - at[0]) / np.ptp(at), atol=1e-6)
    assert places(drawn.figure, [drawn.figure.axes[1]])[0][-2:] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("dims", "shape"),
    [(("time",), (9,)), (("band",), (9,)), ((), (9,)), ((), ()), (("item",), (40,)), (("y", "x"), (6, 6))],
)
@pytest.mark.parametrize("constant", [False, True])
def test_data_over_decades_have_a_logarithmic_scale_whatever_they_are(dims, shape, constant):
    data = checked(shape, dims, scale="log")
    if constant:
        data = replace(data, predictive=np.full_like(data.predictive, 2.0))
    kind, figure = kind_of(data), predictive(data).figure
    values = {"series": 0, "vector": 0, "set": 0, "image": 3}[kind]  # of an image the colour scale's axes
    along = "x" if kind in ("set", "image") or shape == () else "y"
    assert getattr(figure.axes[values], f"get_{along}scale")() == "log"
    assert not re.search(r"Not drawn|None", predictive(data).note)


def test_what_a_logarithmic_scale_cannot_show_is_said():
    data = checked((8,), ("time",), scale="log")
    data.observed[:2] = 0.0, -1.0
    assert "Not drawn: one observed value is below 0" in predictive(data).caption
    data.observed[2] = -2.0
    assert "Not drawn: 2 observed values are below 0" in predictive(data).caption
    assert "Not drawn" not in predictive(replace(data, scale="linear")).caption


@pytest.mark.parametrize(
    ("along", "scale"),
    [
        (np.geomspace(1, 1000, 9), "log"),
        (np.geomspace(1, 1000, 9)[::-1], "log"),
        (np.geomspace(1, 5, 9), "linear"),
        (np.linspace(1, 1000, 9), "linear"),
        (np.linspace(-1, 1, 9), "linear"),
    ],
)
def test_places_even_in_their_logarithm_lie_on_a_logarithmic_axis(along, scale):
    data = replace(checked((9,), ("frequency",)), coords={"frequency": Along(tuple(along.tolist()), "GHz")})
    drawn = predictive(data)
    assert [axes.get_xscale() for axes in drawn.figure.axes] == [scale] * 2  # the data, and what is left over
    assert places(drawn.figure, drawn.panels)[0][9] == (scale == "log")


@pytest.mark.parametrize("dims", [("time",), ("channel",), ("y", "x"), ("item",)])
def test_strange_numbers_are_marked(dims):
    """A ring around the number in a series, a vector or a set; a line around the pixel of an image."""
    shape = (12, 12) if dims == ("y", "x") else (12,)
    data = checked(shape, dims)
    plain = predictive(data)
    strange = np.zeros(shape, dtype=bool)
    strange[(5,) * len(shape)] = True
    drawn = predictive(replace(data, strange=strange))
    assert drawn.caption == plain.caption + " Marked in red: unlike what the other numbers say of it."
    axes = drawn.figure.axes[0]
    if dims == ("y", "x"):
        edges = np.concatenate([path.vertices for path in axes.collections[-1].get_paths()])
        assert (edges.min(0).tolist(), edges.max(0).tolist()) == ([4.5, 4.5], [5.5, 5.5])
        return
    (ring,) = [line for line in axes.lines if line.get_label() == "strange"]
    place = data.observed[5] if dims == ("item",) else 6 if dims == ("channel",) else 5
    assert np.asarray(ring.get_xdata()).tolist() == [place]


def test_series_stand_where_their_coordinates_say():
    along = {"time": Along((1900.0, 1901.0, 1903.0), "yr"), "species": Along(("hare", "lynx"))}
    data = replace(checked((3, 2), ("time", "species"), name="counts", unit=""), coords=along)
    drawn = predictive(data).figure
    assert [a.get_title(loc="left") for a in drawn.axes[:2]] == ["hare", "lynx"]
    assert drawn.axes[2].get_xlabel() == "time [yr]"
    points = next(line for line in drawn.axes[0].lines if line.get_label() == "observed")
    assert points.get_xdata().tolist() == [1900.0, 1901.0, 1903.0]
    deep = replace(data, dims=("time", "depth"), coords={"depth": Along((0.5, 2.0), "m")})
    assert [a.get_title(loc="left") for a in predictive(deep).figure.axes[:2]] == ["depth 0.5 m", "depth 2 m"]


def test_the_script_has_dates_and_small_changes_of_large_numbers():
    """A light curve within a day, in MJD, and a pressure that changes in its sixth digit."""
    days = tuple(58849.0 + 0.001 * k for k in range(30))
    data = checked(
        (30,), ("time",), observed=np.full(30, 1013.25), simulated=1013.25 + 1e-3 * np.arange(1500.0).reshape(50, 30)
    )
    data = replace(data, coords={"time": Along(days, "d")})
    run = Run(Path(), {}, None, (data,), None, {}, {}, {}, {})
    ((found,),) = predicted_data(run, 50)
    assert found["x"] == list(days)
    np.testing.assert_allclose(found["rows"], data.predictive, atol=1e-4)
    drawn = predictive(data)
    to_svg(drawn.figure, "alt", "a")
    assert places(drawn.figure, drawn.panels)[0][4:6] == list(drawn.panels[0].get_xlim())


def test_elements_are_named_by_their_coordinates():
    data = replace(checked((3,), ("detector",)), coords={"detector": Along(("H1", "L1", "V1"))})
    axes = predictive(data).figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["H1", "L1", "V1"]
    assert axes.get_xlabel() == "detector"


def test_coordinates_reach_the_report(tmp_path):
    data, draws = checked((2, 3)), Draws(("a",), ("",), torch.rand(50, 1), torch.zeros(50))
    values = {"counts": data.observed}, {"counts": data.predictive}
    answer = Answer({"a": Estimate(0.5, 0.3, 0.5, (0.0, 1.0), 0.9, "")}, draws, None, Trust(0.5, "", "good"), *values)
    coords = {"detector": ("H1", "L1"), "time": (0.0, 0.5, 1.5)}
    spec = Observable((2, 3), "mV", ("detector", "time"), coords=coords, coord_units={"time": "s"})
    plain = Observable((2, 3), "mV", ("detector", "time"))
    save_answer(replace(answer, observables={"counts": spec}), tmp_path / "named")
    save_answer(replace(answer, observables={"counts": plain}), tmp_path / "bare")
    named, bare = (next(iter(read_runs(tmp_path / name).values())).checked[0] for name in ("named", "bare"))
    assert named.coords == {"detector": Along(("H1", "L1")), "time": Along((0.0, 0.5, 1.5), "s")}
    assert bare.coords == {}
