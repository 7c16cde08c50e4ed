"""The first look of `infer`, and `check` with an observation: what stops, what is warned of, and what is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from brief import briefly_trained
from command_line import call
from samplers.controlled import planned_tank

from sciinf import Normal, Observable, Prior, Simulator, load_simulator
from sciinf.core import Observation, X
from sciinf.core.simulator import as_seen
from sciinf.interfaces.commands import first_look
from sciinf.interfaces.commands.first_look import compared, look_at, look_first, predicted
from sciinf.interfaces.commands.observations import ObservationFile

DECAY = """
import numpy as np

from sciinf import LogNormal, Observable, Prior, wrappers

prior = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), amplitude=(LogNormal(1.0, 0.3), "mV"))


def voltage(rate, amplitude, rng):
    return amplitude * np.exp(-rate * np.linspace(0, 5, 9)) + 0.1 * rng.normal(size=9)


simulator = wrappers.numpy(voltage, prior, {"v": Observable((9,), "mV", dims=("time",))})
"""
SEEN = "v [mV]\\n3.1\\n2.1\\n1.3\\n0.8\\n0.6\\n0.3\\n0.2\\n0.1\\n0.2\\n".replace("\\n", "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`decay.py`, data `seen.csv`, 10 mV higher ones, `high.csv`, and the same taken for volts, `volts.csv`."""
    (tmp_path / "decay.py").write_text(DECAY)
    (tmp_path / "seen.csv").write_text(SEEN)
    (tmp_path / "high.csv").write_text(re.sub(r"^(\d)", r"1\1", SEEN, flags=re.MULTILINE))
    (tmp_path / "volts.csv").write_text(SEEN.replace("mV", "V"))
    return tmp_path


def infer(folder: Path, data: str) -> list[object]:
    words = ["--observation", folder / data, "--out", folder / "run", "-n", 200, "--refine", "off"]
    return ["infer", folder / "decay.py", *words]


def test_check_shows_how_data_lie_within_the_prior(folder: Path) -> None:
    seen = call("check", folder / "decay.py", "--observation", folder / "seen.csv")
    assert seen.code == 0, seen.err
    assert "v               the observation lies within what the prior predicts: 9 of 9 numbers" in seen.out
    drawn = call("check", folder / "decay.py", "--observation", folder / "volts.csv", "--out", folder / "look")
    assert "v               the observation lies OUTSIDE what the prior predicts" in drawn.out
    assert drawn.code == 3
    assert "found: data OUTSIDE what the prior predicts" in drawn.out.splitlines()[-1]
    assert "no problem found" not in drawn.out
    assert (folder / "look" / "check.png").read_bytes()[:4] == b"\x89PNG"
    assert str(folder / "look" / "check.png") in drawn.out
    assert "--out draws an observation" in call("check", folder / "decay.py", "--out", folder / "look").error


def test_check_writes_the_line_that_declares_where_data_stand(folder: Path) -> None:
    """Where a simulator says nothing, data at other times are not told from right ones; the line lets them be."""
    rows = [f"{t:.4g},{v}" for t, v in zip(np.linspace(0, 5, 9), SEEN.split()[2:], strict=True)]
    (folder / "timed.csv").write_text("\n".join(["t [h],v [mV]", *rows]))
    words = "check", folder / "decay.py", "--observation", folder / "timed.csv"
    seen = call(*words)
    assert seen.out.splitlines()[-1] == "found: 1 that could not be told (UNKNOWN)"
    line = re.search(r"^declare +(.*)$", seen.out, re.MULTILINE)
    assert line is not None, seen.out
    old = '"v": Observable((9,), "mV", dims=("time",))'
    (folder / "decay.py").write_text(DECAY.replace(old, line[1]))
    assert "read            t: as the simulator has it" in (found := call(*words)).out
    assert found.out.splitlines()[-1] == "no problem found"
    (folder / "timed.csv").write_text((folder / "timed.csv").read_text().replace("[h]", "[min]"))
    assert "its column 't' has 0, 0.0104167" in call(*words).error


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "    return",
            "    if rate > 0.6:\n        raise RuntimeError('too fast')\n    return",
            "too fast. A campaign stops",
        ),
        ("size=9", "size=8", "nothing was simulated"),
    ],
)
def test_infer_stops_before_a_run_that_would_be_worthless(folder: Path, old: str, new: str, words: str) -> None:
    (folder / "decay.py").write_text(DECAY.replace(old, new))
    result = call(*infer(folder, "seen.csv"))
    assert result.code == 2
    assert "nothing was simulated, for 'voltage' would make the run worthless" in result.error
    assert words in result.error
    assert "The run folder has the log of this alone" in result.error
    assert {file.name for file in (folder / "run").iterdir()} == {"log.txt"}


@pytest.mark.slow
@briefly_trained(20)
def test_infer_warns_of_the_rest_once(folder: Path) -> None:
    """Failures, and data outside the prior; not again when the run goes on."""
    (folder / "decay.py").write_text(
        DECAY.replace("    return", "    if rate > 1.9:\n        raise RuntimeError\n    return")
    )
    first, again = call(*infer(folder, "high.csv")), call(*infer(folder, "high.csv"))
    assert (first.code, again.code) == (0, 0), first.err
    told = [
        r"warning: \d+ of 64 rows failed \(\d+%\); .* the posterior is that of the prior where the simulator works",
        "warning: v: the observation lies OUTSIDE what the prior predicts",
    ]
    assert [bool(re.search(words, first.err)) for words in told] == [True, True], first.err
    assert [bool(re.search(words, again.err)) for words in told] == [False, False]


def test_batches_are_of_two_sizes(folder: Path) -> None:
    """For a simulator may be compiled for each."""
    sizes: set[int] = set()

    class Counted(Simulator):
        name, prior, observables = "counted", Prior(a=Normal(0.0, 1.0)), {"v": Observable((3,))}

        def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
            sizes.add(len(theta))
            return {"v": theta + torch.randn(len(theta), 3, generator=generator)}

    look_first(Counted(), [ObservationFile("seen", (), Observation({"v": torch.zeros(3)}))])
    assert sizes == {1, 64}


def test_a_slow_simulator_is_looked_at_in_few_simulations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = "    with open(__file__ + '.calls', 'a') as calls:\n        calls.write('.')\n    return"
    (folder / "decay.py").write_text(DECAY.replace("    return", wait))
    monkeypatch.setattr(first_look, "_SECONDS", 1e-6)
    first_look.look_first(load_simulator(folder / "decay.py"), [])
    assert 10 < len((folder / "decay.py.calls").read_text()) < 25
    monkeypatch.setattr(first_look, "_LONG", 1e-6)
    result = call("check", folder / "decay.py", "--observation", folder / "seen.csv", "--out", folder / "look")
    assert "prior           the observation is not compared with data of the prior: 300 simulations" in result.out


def filled(many: float) -> tuple[Simulator, Observation]:
    """A tank that is filled by drawn plans, and one that was filled at the first of its times, with so much."""
    generator, sim = torch.Generator().manual_seed(3), planned_tank()
    theta = torch.tensor([[0.3, 0.4, 0.2]])
    plan = dict(sim(theta, generator=generator)) | {"y_mask": torch.ones(1, 6, dtype=torch.bool)}
    plan["y_times"] = torch.arange(6.0, dtype=torch.float64)[None]
    plan |= {name: torch.zeros_like(plan[name]) for name in ("fill", "warmth")}
    plan["fill"][0, 0] = many
    x = as_seen(sim, plan)(theta, generator=generator)
    return sim, Observation({name: value[0] for name, value in x.items()})


def test_an_observation_is_compared_with_data_of_its_own_times_and_controls(capsys: pytest.CaptureFixture[str]) -> None:
    """A right model filled with 100, where plans have 3 at most; the seed is fixed (false alarms 1 %)."""
    sim, x = filled(100.0)
    lines, outside = look_at(sim, x, None)
    assert not outside, lines
    assert [line.split()[0] for line in lines] == ["y"], "times and controls are no predictions"
    look_first(sim, [ObservationFile("far", (), x)])
    assert "OUTSIDE" not in (said := capsys.readouterr().err), said


def test_data_that_are_wrong_for_their_own_controls_do_not_hide_among_other_plans() -> None:
    """A tank at 2 throughout, which nothing filled: y lies among those of all plans, and beyond those of its own."""
    sim, x = filled(0.0)
    assert not look_at(sim, x, None)[1]
    full = Observation({**x, "y": torch.full((6,), 2.0)})
    others = predicted(sim, 500, 500)
    assert [check.level for check in compared(sim, full, others)] == ["good"]
    lines, outside = look_at(sim, full, None)
    assert outside, lines


def test_an_observation_whose_times_go_backwards_is_refused_before_a_run() -> None:
    sim, x = filled(1.0)
    back = Observation({**x, "y_times": x["y_times"].flip(0)})
    with pytest.raises(ValueError, match="times go backwards"):
        look_first(sim, [ObservationFile("back", (), back)])
