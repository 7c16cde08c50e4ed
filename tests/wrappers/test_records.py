"""Records with times of their own: simulations that are as short, and files with a row for each time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from samplers.hidden import OU
from scipy.stats import chisquare, kstest

from sciinf import LogUniform, Observable, Prior, wrappers
from sciinf.core.observation import observe
from sciinf.simulators.dynamics.state_space import StateSpace

MOST = 10
PRIOR = Prior(k=LogUniform(0.2, 2.0), s=LogUniform(0.5, 2.0), r=LogUniform(0.1, 0.5))
CHART = "time,y,y_mask\n0.5,1.5,1\n1,0,0\n2.5,-0.5,1\n"


def visits(rows, generator):
    return (9 * torch.rand(rows, MOST, generator=generator)).sort(-1).values


def ou(**options) -> Any:
    seen = {"y": Observable((MOST,), "mV", ("time",))}
    return wrappers.state_space(OU(), PRIOR, visits, seen, begin=0.0, time_unit="d", **options)


class Two(StateSpace):
    """Two numbers, and one that is counted, at each time."""

    latent = {"z": ""}

    def initial(self, theta, rows, *, generator):
        return torch.zeros(rows, 1)

    def advance(self, theta, state, start, stop, *, generator):
        return state

    def observe(self, theta, state, *, generator):
        return {"v": state.expand(-1, 2), "n": state[:, 0].long()}


def two(**options):
    seen = {"v": Observable((MOST, 2), "m", ("time", "side")), "n": Observable((MOST,), "", ("time",), "int64")}
    return wrappers.state_space(Two(), PRIOR, visits, seen, **options)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(simulator, rows: int):
    theta = simulator.prior.sample(rows, generator=generator())
    return theta, simulator(theta, generator=generator(1))


# --- simulations that are shorter -----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_simulations_are_what_record_makes_of_their_values(missing: float) -> None:
    simulator = ou(shortest=3, missing=missing)
    _, x = drawn(simulator, 60)
    lengths = (x["y_times"] < x["y_times"][:, -1:]).sum(-1) + 1
    assert {3, MOST} <= set(lengths.tolist())
    for row, count in enumerate(lengths.tolist()):
        values = torch.where(x["y_mask"], x["y"], torch.nan)[row, :count].numpy()
        made = simulator.record(x["y_times"][row, :count].numpy(), {"y": values})
        assert list(made) == ["y", "y_times", "y_mask"]
        assert all(torch.equal(value, x[name][row]) for name, value in made.items())


def test_each_length_is_as_likely_and_its_times_are_some_at_random() -> None:
    """False alarms: 1e-4 each."""
    _, x = drawn(ou(shortest=3), 4_000)
    lengths = x["y_mask"].sum(-1)
    assert chisquare(lengths.bincount(minlength=MOST + 1)[3:].numpy()).pvalue > 1e-4
    first = x["y_times"][lengths == 3][:, :3].reshape(
        -1
    )  # some of 10 uniform times are uniform; the first three are not
    assert kstest(first.numpy(), "uniform", (0, 9)).pvalue > 1e-4


def test_a_shorter_record_has_the_likelihood_of_its_times_alone() -> None:
    simulator = ou(shortest=4)
    theta = PRIOR.sample(5, generator=generator())
    record = {name: value[None] for name, value in simulator.record([0.5, 1.0, 2.5, 7.0], {"y": [1, 2, 0, -1]}).items()}
    alone: Any = wrappers.state_space(OU(), PRIOR, [0.5, 1.0, 2.5, 7.0], {"y": (4,)}, begin=0.0)
    seen = {"y": torch.tensor([[1.0, 2.0, 0.0, -1.0]])}
    found, exact = simulator.log_likelihood(theta, record), alone.log_likelihood(theta, seen)
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)


def test_mistakes_of_shorter_records() -> None:
    with pytest.raises(ValueError, match="`shortest`.*is for times that a function draws; got 3"):
        wrappers.state_space(OU(), PRIOR, range(MOST), {"y": (MOST,)}, shortest=3)
    with pytest.raises(ValueError, match="`shortest`.*is at most 10, the times; got 11"):
        ou(shortest=11)
    with pytest.raises(ValueError, match="shortest"):
        ou(shortest=0)
    with pytest.raises(ValueError, match="the record has 2 times, and simulations have 3 to 10: .*shortest=2"):
        ou(shortest=3).record([1.0, 2.0], {"y": [0.0, 1.0]})
    with pytest.raises(ValueError, match="1 of 4 values of 'y' are not there.*missing=0.5"):
        ou(shortest=3).record([1.0, 2.0, 3.0, 4.0], {"y": [0.0, float("nan"), 1.0, 1.0]})
    with pytest.raises(ValueError, match="8 of 10 values of 'y' are not there.*shortest=2"):
        ou().record([1.0, 2.0], {"y": [0.0, 1.0]})


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_record_does(tmp_path) -> None:
    simulator = ou(shortest=2, missing=0.4)
    (file := tmp_path / "visits.csv").write_text(CHART)
    found = observe(simulator, file)
    made = simulator.record([0.5, 1.0, 2.5], {"y": [1.5, float("nan"), -0.5]})
    assert list(found) == list(simulator.observables)
    assert all(torch.equal(found[name], value) for name, value in made.items())
    assert "a record of 3 times, of at most 10" in found.read
    assert any("3 values of time" in line for line in found.read)


def test_a_file_with_other_names_and_units(tmp_path) -> None:
    simulator = ou(shortest=2)
    (file := tmp_path / "hours.csv").write_text("when [h],level [V]\n12,0.0015\n36,-0.001\n")
    found = observe(simulator, file, columns={"y_times": "when", "y": "level"})
    assert found["y_times"].tolist() == [0.5, *[1.5] * 9]
    torch.testing.assert_close(found["y"][:2], torch.tensor([1.5, -1.0]))
    assert found["y_mask"].tolist() == [True, True] + [False] * 8


def test_several_observables_and_numbers_side_by_side(tmp_path) -> None:
    simulator = two(missing=0.4)
    (file := tmp_path / "both.csv").write_text("time,v_left,v_right,n,n_mask\n1,0.5,0.6,3,1\n2,0.1,0.2,0,0\n")
    found = observe(simulator, file)
    assert found["v"][:2].tolist() == [pytest.approx([0.5, 0.6]), pytest.approx([0.1, 0.2])]
    assert found["n"].tolist() == [3] + [0] * 9
    assert found["n_mask"].tolist() == [True] + [False] * 9
    assert found["v_mask"].tolist() == [True, True] + [False] * 8
    assert torch.equal(found["n_times"], found["v_times"])


def test_a_whole_record_with_its_own_columns_is_read_as_it_stands(tmp_path) -> None:
    lines = [f"{k / 2},{k},{k % 2}" for k in range(MOST)]
    (file := tmp_path / "whole.csv").write_text("\n".join(["y_times,y,y_mask", *lines]))
    found = observe(ou(missing=0.4), file)
    assert found["y"].tolist() == list(range(MOST))  # those that are missing, too, as ever
    (short := tmp_path / "short.csv").write_text("\n".join(["y_times,y,y_mask", *lines[:4]]))
    assert observe(ou(missing=0.4), short)["y"].tolist() == [0, 1, 0, 3] + [0] * 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,y\n1,0\n0.5,1\n", "times go backwards: 1 is followed by 0.5"),
        (
            "time,y\n" + "\n".join(f"{k},0" for k in range(11)),
            "the record has 11 times, and simulations have at most 10",
        ),
        ("time,y,y_msk\n1,0,1\n2,1,0\n", "'y_msk' is no column of a record, .*did you mean 'y_mask'"),
        ("time,y,note\n1,0,1\n2,1,0\n", "'note' is no column of a record, which has time, y, y_mask .where values"),
        ("y,y_mask\n1,1\n2,1\n", "no column has the times of the record: found .'y', 'y_mask'.*--column y_times=NAME"),
        ("time,y_times,y\n1,1,1\n2,2,1\n", "a record has one column of times, there are y_times, time: keep one"),
        ("time,z\n1,1\n2,1\n", "'z' is no column of a record, which has time, y"),
        ("time,y_mask\n1,1\n2,1\n", "no column 'y' in"),
        ("time,y\n1,\n2,1\n", "'y' has 1 values that are NaN or infinite, or missing; the first in line 2"),
        ("time [mV],y\n1,1\n2,1\n", "is in 'mV', which does not convert to the simulator's 'd'"),
        ("time,y\n1,0\n", "the record has 1 times, and simulations have 2 to 10"),
    ],
)
def test_mistakes_of_files(tmp_path, text: str, words: str) -> None:
    (file := tmp_path / "visits.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        observe(ou(shortest=2, missing=0.4), file)


def test_a_mask_where_simulations_have_none_is_no_column(tmp_path) -> None:
    (file := tmp_path / "visits.csv").write_text("time,y,y_mask\n" + "\n".join(f"{k},0,1" for k in range(10)))
    with pytest.raises(ValueError, match="'y_mask' is no column of a record, which has time, y[.]"):
        observe(ou(), file)
