"""Typical mistakes of users: what is said of each names the cause and the way out.

Each row of `MISTAKES` is one: its name, what is done, a part of the message that names the cause, and one that names
the cure. What is said of damaged files, of options and of columns is tested in files of its own.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy import units
from command_line import call

import sciinf
from sciinf import Flow, Observable, Recipe, build_posterior, load_fit, load_simulator
from sciinf.campaigns import Store
from sciinf.core import as_observation, read_observation

ONE = {"v": Observable((3,), "mV", ("time",))}
WIDE = {"image": Observable((3, 2))}
GOOD = torch.zeros(3)

FUNCTION = """
import numpy as np
import torch
from torch.distributions import Normal

from sciinf import Observable, Prior, Simulator, wrappers

prior = Prior(a=(Normal(0.0, 1.0), "V"), b=Normal(0.0, 1.0))
observables = {"v": Observable((3,), "mV")}


def volts(a, b, rng):
    v = a + b * np.arange(3.0) + rng.normal(size=3)
    return {"v": v}


simulator = wrappers.numpy(volts, prior, observables)
"""
CLASS = """
import numpy as np
import torch
from torch.distributions import Normal

from sciinf import Observable, Prior, Simulator


class Volts(Simulator):
    name = "volts"
    prior = Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    observables = {"v": Observable((3,), "mV")}

    def __call__(self, theta, *, generator):
        v = theta[:, :1] + torch.randn(len(theta), 3, generator=generator)
        return {"v": v}


simulator = Volts()
"""
Do = Callable[[Path], str]


def raised(do: Callable[[Path], Any]) -> Do:
    """What Python raises or warns of."""

    def said(folder: Path) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                do(folder)
            except (ValueError, TypeError, OSError) as error:
                return str(error)
        return " ".join(str(one.message) for one in caught)

    return said


def reads(text: str | bytes, name: str = "data.csv", observables: Any = ONE) -> Do:
    """What is said of a file of data."""

    def do(folder: Path) -> None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        read_observation(observables, folder / name)

    return raised(do)


def asks(x: Any, observables: Any = ONE) -> Do:
    """What is said of data in Python."""
    return raised(lambda folder: as_observation(observables, x))


def command(*words: object) -> Do:
    """What a command says; RUN, SIM, DATA and FAR are whole, OUT is new."""

    def said(folder: Path) -> str:
        places = {
            "RUN": folder / "run",
            "SIM": folder / "line.py",
            "DATA": folder / "seen.csv",
            "FAR": folder / "far.csv",
            "OUT": folder / "new",
        }
        result = call(*(_placed(word, places) for word in words))
        return result.err + result.out

    return said


def _placed(word: object, places: dict[str, Path]) -> object:
    head, _, tail = str(word).partition("/")
    return word if head not in places else places[head] / tail if tail else places[head]


def runs(text: str, old: str = "", new: str = "", verb: str = "simulate") -> Do:
    """What is said of a simulator in which one thing is wrong."""

    def said(folder: Path) -> str:
        assert old in text
        (folder / "sim.py").write_text(text.replace(old, new) if old else text)
        more = ["-n", 20, "--out", folder / "store"] if verb == "simulate" else []
        result = call(verb, folder / "sim.py", *more)
        return result.err + result.out

    return said


def answers(old: str, new: str) -> Do:
    """What an answer says whose simulator has one thing wrong."""

    def said(folder: Path) -> str:
        assert old in FUNCTION
        (folder / "wrong.py").write_text(FUNCTION.replace(old, new))
        return sciinf.query(_posterior(folder), GOOD, simulator=load_simulator(folder / "wrong.py")).table()

    return said


RETURN = 'return {"v": v}'
PRIOR = "    prior = Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))\n"
OBSERVABLES = '    observables = {"v": Observable((3,), "mV")}\n'
FROM_GENERATOR = "draw from the generator passed"
INFER = ("infer", "SIM", "--observation", "DATA", "--out", "OUT")
QUERY = ("query", "RUN", "--observation", "DATA")
FAR = ("query", "RUN", "--observation", "FAR")
STORES = ("simulations", "calibration_simulations")
untyped: Any = sciinf
MISTAKES: list[tuple[str, Do, str, str]] = [
    # data
    ("a longer column", reads("t,volt\n1,1\n2,2\n3,3\n"), r"found \['t', 'volt'\]", "Rename it, .*--column v=volt"),
    ("no such column", reads("t,w\n1,1\n2,2\n3,3\n"), r"found \['t', 'w'\]", "Rename it, .*--column v=NAME"),
    ("an upper-case column", reads("V\n1\n2\n3\n"), r"no column 'v' in .*found \['V'\]", "Rename it, .*--column v=V"),
    ("semicolons between columns", reads("t;v\n0;1\n1;2\n2;3\n"), "semicolons between its columns", "replace them"),
    ("commas in numbers", reads("v\n0,1\n0,2\n0,3\n"), "commas in its numbers, such as 0,1", "write them with points"),
    ("no header", reads("0,1.5\n1,2.5\n2,-3e-2\n"), "no header: its first line is 0, 1.5", "above it .* column_1,v$"),
    ("a picture called csv", reads(b"\x89PNG\r\n\xff\xfe", "p.csv"), "not text in UTF-8", "save it as UTF-8"),
    ("a folder in place of a file", raised(lambda f: read_observation(ONE, f)), "is a folder", "name the file in it"),
    ("too many values", reads("v\n1\n2\n3\n4\n"), r"has shape \(4,\)", "cut or resample it"),
    ("several observations", asks(torch.zeros(5, 3)), r"\(5, 3\).* 5 observations", r"one at a time, x\[0\]"),
    ("axes the other way round", asks(np.zeros((2, 3)), WIDE), r"shape \(2, 3\).*\(3, 2\)", "transpose it"),
    ("no axis of a batch", raised(lambda f: as_observation(ONE, GOOD, batched=True)), r"\(3,\)", "add a first axis"),
    ("a misspelt observable", asks({"vv": GOOD}), r"missing: \['v'\]; unknown: \['vv'\]", "as the simulator does"),
    ("a bare array for two", asks(GOOD, {**ONE, **WIDE}), "got Tensor", r"must be a mapping of 'v' \(3,\)"),
    ("another unit", asks(np.zeros(3) * units.s), "'s', which does not convert to .*'mV'", "correct the unit of"),
    ("a path in place of data", asks({"v": "data.csv"}), "<U8 values, expected numbers", r"by simulator\.observe"),
    # simulators
    ("a list of no numbers", runs(FUNCTION, RETURN, "return {'v': [1.0, [2.0]]}"), "no rectangular array", "mend the"),
    ("nothing returned", runs(FUNCTION, RETURN, "pass"), "returned None", "must return .*is a `return` missing"),
    ("another shape", runs(FUNCTION, RETURN, 'return {"v": v[:2]}'), r"'v' with shape \(2,\)", r"expected \(3,\)"),
    ("another name", runs(FUNCTION, RETURN, 'return {"w": v}'), "'w', which is no observable", r"expected \{'v': "),
    ("nothing returned by a class", runs(CLASS, RETURN, "pass"), "returned NoneType", "expected a mapping of 'v'"),
    ("the batch last", runs(CLASS, RETURN, 'return {"v": v.T}'), r"shape \(3, 20\)", r"expected \(20, 3\).*per row"),
    (
        "digits in whole numbers",
        runs(CLASS, '"mV")', '"mV", dtype="int64")'),
        "holds values such as",
        "declare it float32",
    ),
    (
        "numpy's global state",
        runs(FUNCTION, "rng.nor", "np.random.nor", "check"),
        "from numpy's global",
        FROM_GENERATOR,
    ),
    (
        "torch's global state",
        runs(CLASS, ", generator=generator)\n", ")\n", "check"),
        "from torch's global",
        FROM_GENERATOR,
    ),
    (
        "it prints",
        runs(FUNCTION, "    v =", "    print(a)\n    v =", "check"),
        r"prints \(\d+ lines for",
        "leave it out",
    ),
    (
        "a parameter of another name",
        runs(FUNCTION, "volts(a, b,", "volts(a, c,"),
        "'b' that .* not take",
        r"has \['a', 'b'\]",
    ),
    (
        "generator in place of rng",
        runs(FUNCTION, "b, rng)", "b, generator)"),
        "takes an argument 'generator'",
        "'rng'.*may",
    ),
    (
        "random numbers of its own",
        answers("rng.normal", "np.random.default_rng().normal"),
        "noise +caution: the same parameters and seed gave other data",
        FROM_GENERATOR[5:],
    ),
    (
        "always the same noise",
        answers("rng.normal", "np.random.default_rng(0).normal"),
        "noise +caution: another seed gave the same data",
        "drawn from the generator passed",
    ),
    ("no name", runs(CLASS, '    name = "volts"\n', ""), "the simulator has no name", "write `name = "),
    ("no prior", runs(CLASS, PRIOR, ""), "the simulator has no prior", "write `prior = "),
    ("no observables", runs(CLASS, OBSERVABLES, ""), "the simulator has no observables", "write `observables = "),
    ("a class", runs(CLASS, "simulator = Volts()", "simulator = Volts"), "the class Volts", r"`simulator = Volts\(\)`"),
    ("a class alone", runs(CLASS, "simulator = Volts()", ""), "none, but the class Volts", r"`simulator = Volts\(\)`"),
    (
        "two simulators",
        runs(CLASS, "simulator = Volts()", "a = Volts()\nb = Volts()"),
        "none, but a, b",
        "`simulator = a`",
    ),
    (
        "a notebook",
        raised(lambda f: load_simulator(_touched(f / "sim.ipynb"))),
        "not a Python file",
        "jupyter nbconvert",
    ),
    ("a whole number as shape", raised(lambda f: untyped.Observable(3)), "shape is a tuple", r"such as \(3,\)"),
    (
        "a misspelt keyword of an observable",
        raised(lambda f: untyped.Observable((3,), dim=("time",))),
        "Observable takes no 'dim'",
        "did you mean 'dims'",
    ),
    # commands
    ("too small n", command(*INFER, "-n", 10), "'-n': 10 is not in the range", "x>=100"),
    ("percent as level", command(*QUERY, "--level", 90), "'--level': 90.0 is not in the range", "0<x<1"),
    ("a device of no such name", command(*QUERY, "--device", "gpu"), "there is no device 'gpu'", "use --device cpu"),
    ("far outside", command(*FAR, "--without-simulator"), "unlike the simulations", "check the data, their units"),
    (
        "a file as run",
        command("query", "SIM", "--observation", "DATA"),
        "no finished fit .* is a file",
        "name the run folder",
    ),
    (
        "not trained yet",
        command("query", "RUN/simulations", "--observation", "DATA"),
        "no finished fit",
        "`sciinf train`",
    ),
    ("a report of a part", command("report", "RUN/fit"), "holds nothing to report on", "the folder that a run wrote"),
    ("a check of a run", command("check", "RUN"), "is a run", "sciinf check .*/run/simulations"),
    (
        "to train on a run",
        command("train", "SIM", "RUN", "--out", "OUT"),
        "no simulations",
        "are in .*/run/simulations",
    ),
    (
        "another seed",
        command("simulate", "SIM", "-n", 300, "--out", "RUN/simulations", "--seed", 7),
        "seed: 0 -> 7",
        "Choose",
    ),
    (
        "the folder of another simulator",
        raised(lambda f: sciinf.simulate(_another(f), f / "run/simulations", 150)),
        "run/simulations holds simulations of another simulator, 'volts', not of 'amperes'. Choose another folder",
        r"observables: v \(3,\) \[mV\]",
    ),
    (
        "a simulator as pipeline",
        command("run", "SIM", "--out", "OUT"),
        "must define `run",
        "which `sciinf infer` takes",
    ),
    (
        "an option of a reader that has none",
        raised(lambda f: sciinf.infer(f / "line.py", f / "seen.csv", n=100, out=f / "new", options={"gps": 1.0})),
        "takes no 'gps'",
        "it takes none",
    ),
    # Python
    (
        "a misspelt keyword of infer",
        raised(lambda f: untyped.infer(f / "line.py", GOOD, n=100, out=f / "new", refin="off")),
        "infer takes no 'refin'",
        "did you mean 'refine'",
    ),
    (
        "a misspelt keyword of an estimator",
        raised(lambda f: untyped.Flow(sciinf.Prior(a=sciinf.Normal(0.0, 1.0)), ONE, summari=None)),
        "Flow takes no 'summari'",
        "did you mean 'summary'",
    ),
    (
        "a path as simulator",
        raised(lambda f: untyped.simulate("line.py", f / "s", 9)),
        "got str",
        "load a file with load_",
    ),
    (
        "a path as store",
        raised(lambda f: untyped.train(_flow(f), "store", f / "fit")),
        "got str",
        r"with Store\(path\)",
    ),
    (
        "a path as fit",
        raised(lambda f: untyped.build_posterior("run/fit")),
        "a Fit, or several, got str",
        "with load_fit",
    ),
    ("no data", raised(lambda f: _posterior(f).sample((5,))), "no observation was given", "pass x="),
    (
        "calibrated on what it learned",
        raised(lambda f: _on_training(f)),
        "that the network was trained on",
        "another seed",
    ),
]


def _touched(path: Path) -> Path:
    path.write_text("{}")
    return path


def _another(folder: Path) -> Any:
    (folder / "other.py").write_text(FUNCTION.replace("volts", "amperes").replace('"mV"', '"mA"'))
    return load_simulator(folder / "other.py")


def _flow(folder: Path) -> Flow:
    simulator = load_simulator(folder / "line.py")
    return Flow(simulator.prior, simulator.observables)


def _posterior(folder: Path) -> Any:
    return build_posterior(load_fit(folder / "run/fit"))


def _on_training(folder: Path) -> None:
    sciinf.calibrate(_posterior(folder), Store(folder / "run/simulations"))


def test_the_table_is_whole() -> None:
    names = [name for name, *_ in MISTAKES]
    assert len(names) == len(set(names)) >= 57


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `line.py`, observations `seen.csv` and `far.csv`, and a hasty `run`."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "line.py").write_text(FUNCTION)
    (folder / "seen.csv").write_text("v [mV]\n0.1\n0.2\n0.3\n")
    (folder / "far.csv").write_text("v [mV]\n1e6\n-1e6\n1e6\n")
    simulator, run = load_simulator(folder / "line.py"), folder / "run"
    store, fresh = (sciinf.simulate(simulator, run / name, 150, seed=i) for i, name in enumerate(STORES))
    fit = sciinf.train(_flow(folder), store, run / "fit", recipe=Recipe(epochs=1))
    sciinf.calibrate(build_posterior(fit), fresh, run)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made, tmp_path / "mistakes")


@pytest.mark.parametrize(("do", "cause", "cure"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_what_is_said_names_cause_and_cure(folder: Path, do: Do, cause: str, cure: str) -> None:
    said = do(folder)
    assert re.search(cause, said), said
    assert re.search(cure, said), said
    assert "Traceback" not in said
