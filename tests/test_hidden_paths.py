"""Hidden paths in answers: right at each time, kept, drawn, exported; and what is said where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from brief import briefly_trained
from samplers.controlled import planned_tank
from samplers.hidden import OU

from sciinf import Flow, LogUniform, Observable, Prior, build_posterior, load_answer, query, simulate, train, wrappers
from sciinf.core.paths import HiddenPaths
from sciinf.interfaces.exports import to_datatree
from sciinf.interfaces.figures.checked import checked_of
from sciinf.interfaces.figures.paths import paths_figure, seen_in
from sciinf.interfaces.predictive_file import Predicted
from sciinf.interfaces.report import write_report
from sciinf.networks.summaries.timed import lines_of
from sciinf.simulators.samplers import kalman
from sciinf.simulators.wrappers.hidden_states import HiddenStates

TIMES = (0.0, 0.2, 0.4, 1.5, 3.0, 3.1, 3.2, 6.0)
MODEL = OU()


def simulator() -> HiddenStates:
    prior = Prior(k=LogUniform(0.2, 2.0), s=LogUniform(0.5, 2.0), r=LogUniform(0.1, 0.5))
    along = Observable((8,), "mV", ("time",), coords={"time": TIMES}, coord_units={"time": "s"})
    return wrappers.state_space(MODEL, prior, TIMES, {"y": along})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with an answer of weighted draws, the simulator and the data."""
    folder, of = tmp_path_factory.mktemp("paths"), simulator()
    store = simulate(of, folder / "simulations", 2_000, seed=0, progress=False)
    with briefly_trained(4):
        posterior = build_posterior(train(Flow(of.prior, of.observables), store, folder / "fit", progress=False), of)
    x = {"y": np.array([0.9, 1.1, 0.8, -0.2, 0.1, 0.2, 0.0, -0.9])}
    answer = query(posterior, x, simulator=of, out=folder, name="one", draws=4_000)
    return folder, of, posterior, x, answer


def test_a_path_at_each_time_has_the_law_of_the_posterior(made):
    """Against the smoothed means and variances of each weighted draw (total expectation and variance).

    1,000 paths of resampled draws: six standard errors of means, 25 % of sds; a false alarm in 1e-6.
    """
    _, of, _, x, answer = made
    draws, path = answer.draws.of_parameters(), answer.paths["z"]
    record = of._record(draws.theta, {"y": torch.tensor(x["y"])[None]})
    found = kalman.filtered(MODEL, dict(zip(draws.names, draws.theta.double().unbind(-1), strict=True)), record)
    mean, covariance = (part[..., 0] for part in kalman.smoothed(found))
    weights = draws.weights.double()[:, None]
    middle = (weights * mean).sum(0)
    sd = (weights * (covariance[..., 0] + (mean - middle).square())).sum(0).sqrt().numpy()
    np.testing.assert_array_less(np.abs(path.mean - middle.numpy()), 6 * sd / np.sqrt(1_000))
    np.testing.assert_allclose(path.sd, sd, rtol=0.25)
    # paths of parameters that are not those of the posterior would not do
    other = of.paths(of.prior.sample(1_000, generator=torch.Generator().manual_seed(0)), _batch(x), torch.Generator())
    assert np.abs(other["z"].sd / sd - 1).max() > 0.25


def _batch(x):
    return {"y": torch.tensor(x["y"], dtype=torch.float32)[None]}


@pytest.mark.slow
def test_intervals_have_units_times_and_the_level_of_the_answer(made):
    _, of, posterior, x, answer = made
    path = answer.paths["z"]
    assert (path.unit, path.time_unit, path.level) == ("mV", "s", 0.9)
    assert path.times.tolist() == list(TIMES)
    assert path.interval.shape == (8, 2)
    inside = (path.draws >= path.interval[:, 0]) & (path.draws <= path.interval[:, 1])
    np.testing.assert_allclose(inside.mean(0), 0.9, atol=0.01)
    assert "hidden paths z [mV] at 8 times, 1,000 draws" in answer.table()
    narrow = query(posterior, x, simulator=of, level=0.5, draws=4_000)
    assert (np.diff(narrow.paths["z"].interval) < np.diff(path.interval)).all()
    with pytest.raises(KeyError, match="'level' is none of z"):
        answer.paths["level"]


@pytest.mark.slow
def test_other_numbers_of_an_answer_are_those_without_paths(made, monkeypatch):
    _, of, posterior, x, answer = made
    monkeypatch.setattr(of, "paths", None)
    plain = query(posterior, x, simulator=of, draws=4_000)
    assert len(plain.paths) == 0
    torch.testing.assert_close(plain.draws.theta, answer.draws.theta, rtol=0, atol=0)
    np.testing.assert_array_equal(plain.predictive["y"], answer.predictive["y"])


def test_paths_are_kept_and_read_back(made, tmp_path):
    folder, _, _, _, answer = made
    found = load_answer(folder, name="one").paths
    for name in ("names", "units", "time_unit", "level"):
        assert getattr(found, name) == getattr(answer.paths, name)
    np.testing.assert_array_equal(found.values, answer.paths.values)
    np.testing.assert_array_equal(found.times, answer.paths.times)
    file = next(folder.glob("answers/one*/paths.h5"))
    kept = file.read_bytes()
    file.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    try:
        with pytest.raises(ValueError, match=r"paths\.h5 is damaged"):
            load_answer(folder, name="one")
    finally:
        file.write_bytes(kept)


def test_a_report_and_a_figure_show_them_with_the_data(made):
    folder, _, _, _, answer = made
    html = write_report(folder).read_text()
    assert "Hidden paths" in html
    assert "90% and 50% bands of 1,000 paths" in html
    axes = answer.figure("paths").axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["90%", "50%", "draws", "median", "y, observed"]
    assert axes.get_ylabel() == "z [mV]"
    with pytest.raises(ValueError, match="no hidden quantity 'y'"):
        answer.figure("paths", names=["y"])
    with pytest.raises(ValueError, match="no hidden paths"):
        replace(answer, paths=HiddenPaths()).figure("paths")


def test_paths_go_out_with_their_units(made):
    *_, answer = made
    tree = to_datatree(answer)["hidden_paths"]
    assert tree["z"].dims == ("draw", "time")
    assert tree["z"].attrs["units"] == "mV"
    np.testing.assert_array_equal(tree["time"], TIMES)
    frame = answer.paths.to_dataframe()
    assert list(frame.columns) == ["name", "unit", "time", "median", "low", "high", "mean", "sd"]
    assert len(frame) == 8
    np.testing.assert_allclose(frame["low"], answer.paths["z"].interval[:, 0])


@pytest.mark.slow
def test_what_keeps_paths_from_being_drawn_is_said(made, monkeypatch):
    _, of, posterior, x, _ = made

    def dies(theta, x, generator):
        raise ValueError("all 64 particles died out at time 3")

    monkeypatch.setattr(of, "paths", dies)
    answer = query(posterior, x, simulator=of, draws=4_000)
    assert len(answer.paths) == 0
    found = {check.name: check for check in answer.checks}["hidden paths"]
    assert found.level == "caution"
    assert "died out at time 3" in found.words


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "level"), [(5, "good"), (20, "caution")])
def test_draws_without_a_path_are_left_out_and_told(made, monkeypatch, lost, level):
    _, of, posterior, x, _ = made
    whole = of.paths

    def some(theta, x, generator):
        found = whole(theta, x, generator)
        return replace(found, values=found.values[lost:])

    monkeypatch.setattr(of, "paths", some)
    answer = query(posterior, x, simulator=of, draws=4_000)
    assert len(answer.paths["z"].draws) == 1_000 - lost
    found = {check.name: check for check in answer.checks}["hidden paths"]
    assert (found.level, found.words.startswith(f"there is none for {lost} of 1,000 draws")) == (level, True)


def test_numbers_without_a_unit_are_drawn_where_one_quantity_can_be_meant():
    seen = {"count": ("", np.arange(3.0))}
    for names, drawn in ((("birds",), True), (("healthy", "ill"), False)):
        paths = HiddenPaths(names, np.zeros((4, 3, len(names))), np.arange(3.0), ("",) * len(names))
        labels = paths_figure(paths, names, seen).axes[0].get_legend_handles_labels()[1]
        assert ("count, observed" in labels) == drawn


def test_times_are_no_observable_to_be_pictured():
    specs = {"y": Observable((3,), "mV", ("time",)), "y_times": Observable((3,), "s", ("time",), "float64")}
    seen, drawn = ({name: np.zeros(shape) for name in specs} for shape in ((3,), (5, 3)))
    assert [one.name for one in checked_of(Predicted(seen, drawn, specs))] == ["y"]
    assert list(seen_in(seen, specs)) == ["y"]


def test_a_file_whose_numbers_do_not_go_together_is_refused(tmp_path: Path):
    from sciinf.interfaces.paths_file import read_paths, write_paths

    write_paths(tmp_path / "paths.h5", HiddenPaths(("a", "b"), np.zeros((3, 4, 1)), np.arange(4.0), ("", "")))
    with pytest.raises(ValueError, match="shape \\(3, 4, 1\\) for 4 times of a, b"):
        read_paths(tmp_path / "paths.h5")


def drawn_times(rows, generator):
    return torch.rand(rows, 8, generator=generator).cumsum(-1)


def test_a_shorter_record_is_padded_and_its_path_ends_with_it():
    """The likelihood is that of a simulator whose fixed times are the record's."""
    of, prior = simulator(), simulator().prior
    own = wrappers.state_space(MODEL, prior, drawn_times, of.observables, missing=0.5)
    fixed = wrappers.state_space(MODEL, prior, TIMES[:5], {"y": Observable((5,), "mV", ("time",))}, missing=0.5)
    values, theta = np.array([0.3, np.nan, 0.1, -0.2, 0.0]), prior.sample(20, generator=torch.Generator())
    x = own.record(TIMES[:5], {"y": values})
    there = torch.tensor(np.isfinite(values))[None]
    short = {"y": torch.tensor(np.nan_to_num(values))[None].float(), "y_mask": there}
    found = own.log_likelihood(theta, {name: value[None] for name, value in x.items()})
    torch.testing.assert_close(found, fixed.log_likelihood(theta, short), rtol=0, atol=1e-5)
    paths = own.paths(theta, {name: value[None] for name, value in x.items()}, torch.Generator())
    assert paths.times.tolist() == pytest.approx(TIMES[:5])
    assert paths.values.shape == (20, 5, 1)


@pytest.mark.parametrize(
    ("times", "values", "words"),
    [
        ((0.0, 1.0), {"z": [0.0, 1.0]}, "2 times of z; there are to be 1 to 8 of 'y'"),
        (range(9), {"y": range(9)}, "9 times of y; there are to be 1 to 8"),
        ((1.0, 0.5), {"y": [0.0, 1.0]}, "times go backwards: 1 is followed by 0.5"),
        ((0.0, 1.0), {"y": [0.0, 1.0, 2.0]}, "'y' has shape .3,. for 2 times"),
        ((0.0, 1.0), {"y": [0.0, 1.0]}, "6 of 8 values of 'y' are not there, and in simulations none is missing"),
    ],
)
def test_records_that_do_not_fit_are_refused(times, values, words):
    own = wrappers.state_space(MODEL, simulator().prior, drawn_times, simulator().observables)
    with pytest.raises(ValueError, match=words):
        own.record(times, {name: np.asarray(value, dtype=float) for name, value in values.items()})


def test_a_simulator_with_fixed_times_takes_no_times():
    with pytest.raises(ValueError, match="has fixed times"):
        simulator().record(TIMES, {"y": np.zeros(8)})


def test_an_impulse_after_all_data_belongs_to_the_path_and_padding_does_not():
    """The line right after a last dose has its time; a level that is held to the end adds no lines."""
    times = torch.tensor([0.0, 2.0, 3.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    assert lines_of(times, []) == 3
    assert lines_of(times, [torch.tensor([5.0, 0.0, 60.0, 0.0, 0.0, 0.0])]) == 4
    assert lines_of(times, [torch.tensor([5.0, 0.0, 0.0, 60.0, 0.0, 0.0])]) == 5  # what was seen then comes first
    assert lines_of(times, [torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0, 0.0])]) == 3
    assert lines_of(times, [torch.full((6, 2), 4.0)]) == 3
    controls = {"fill": [0.0, 1.0, 0.0], "warmth": np.zeros((3, 2))}
    x = planned_tank().record([1.0, 2.0, 2.0], {"y": np.array([2.5, np.nan, np.nan])}, controls)
    theta = torch.tensor([[0.4, 0.7, 0.3]])
    paths = planned_tank().paths(
        theta, {name: value[None] for name, value in x.items()}, torch.Generator().manual_seed(0)
    )
    assert paths.times[-2:].tolist() == [2.0, 2.0]
    np.testing.assert_allclose(np.diff(paths["level"].draws)[:, -1], 1.0, atol=1e-6)


def test_values_that_are_equal_at_equal_times_are_no_jumps():
    rise, times = np.linspace(0.0, 1.0, 6)[None] * np.ones((4, 1)), np.arange(6.0)
    twice = HiddenPaths(("blood",), np.repeat(rise, 2, axis=1)[..., None], np.repeat(times, 2), ("mg/L",))
    steps = HiddenPaths(("open",), np.repeat(rise, 2, axis=1)[..., None], np.arange(12.0), ("",))
    for paths, style in ((twice, "default"), (steps, "steps-post")):
        lines = paths_figure(paths, list(paths)).axes[0].get_lines()
        assert {line.get_drawstyle() for line in lines if line.get_label() != "median"} == {style}


def test_controls_of_a_kept_answer_are_no_predictions(tmp_path: Path):
    """As `checked_of` and figures ask for them; files without any stay byte for byte what they were."""
    from sciinf.interfaces.predictive_file import read_predictive, write_predictive

    specs = {"y": Observable((3,), "mg", ("time",)), "dose": Observable((3,), "mg", ("time",), control=True)}
    seen, drawn = ({name: np.zeros(shape, np.float32) for name in specs} for shape in ((3,), (5, 3)))
    write_predictive(tmp_path / "predictive.h5", Predicted(seen, drawn, specs))
    found = read_predictive(tmp_path / "predictive.h5")
    assert found.observables == specs
    assert [one.name for one in checked_of(found)] == ["y"]
    assert list(seen_in(found.observation, found.observables)) == ["y"]
    import h5py

    with h5py.File(tmp_path / "predictive.h5") as file:
        assert "control" not in file["observation/y"].attrs
