"""Words that a command does not know or misses: what was meant, and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import call

from sciinf.interfaces.commands.estimators import known_estimators
from sciinf.interfaces.commands.usage import meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["infer", "a.py", "--data", "b.csv"], "there is no option --data; did you mean --observation?"),
        (["infer", "a.py", "--sedd", "3"], "there is no option --sedd; did you mean --seed?"),
        (["infer", "a.py", "--num_simulations", "3"], "no option --num_simulations; did you mean -n?"),
        (["query", "a", "--samples", "b.h5"], "no option --samples; did you mean --draws?"),
        (["infer", "a.py", "-o", "b"], "there is no option -o; did you mean --out?"),
        (["report", "a", "--zzz"], "there is no option --zzz; there is --beside, --quiet, --verbose, --help"),
        (["infr"], "No such command 'infr'. Did you mean 'infer'?"),
    ],
)
def test_a_word_that_is_not_known(words: list[str], message: str) -> None:
    result = call(*words)
    assert result.code == 2
    assert message in result.err


@pytest.mark.parametrize(
    ("words", "what", "way_out"),
    [
        (["infer", "a.py", "--observation", "b", "--out", "c"], "'-n'. Simulations to train on.", "-n 10000"),
        (["simulate", "a.py", "--out", "c"], "'-n'. Simulations wanted in all.", "-n 10000"),
        (["infer", "a.py", "-n", "1000"], "'--observation'. Files of the real data.", "--observation data.csv"),
        (["train", "a.py", "b"], "'--out'. Run folder", "--out runs/first"),
        (["infer"], "Missing argument 'SIM.py'.", "defines `simulator`"),
        (["query"], "Missing argument 'DIR'.", "which `sciinf infer` or `sciinf train` wrote"),
    ],
)
def test_a_word_that_is_missing(words: list[str], what: str, way_out: str) -> None:
    result = call(*words)
    assert result.code == 2
    assert what in result.err
    assert way_out in result.err


@pytest.mark.parametrize("words", [["magic"], [], ["folw"]])
def test_estimators_are_listed(words: list[str], tmp_path: Path) -> None:
    result = call("infer", "a.py", "--observation", "b", "-n", 100, "--out", tmp_path / "c", "--estimator", *words)
    assert result.code == 2
    listed = dict(line.split(maxsplit=1) for line in result.err.splitlines() if line.startswith("  "))
    assert listed == known_estimators()
    assert "flow matching" in listed["matching"].lower()
    assert ("did you mean flow?" in result.err) == (words == ["folw"])


def test_every_estimator_is_known_by_its_file(root: Path) -> None:
    built = {f.stem for f in (root / "sciinf/training/estimators").glob("*.py") if "\ndef build(" in f.read_text()}
    assert built == set(known_estimators())


def test_what_is_meant_is_an_option_that_there_is() -> None:
    assert meant("--data", ["--observation", "--seed"]) == "--observation"
    assert meant("--data", ["--seed"]) is None
    assert meant("--sims", ["--simulations"]) == "--simulations"


PIPELINE = '''
def run(out, *, seed=0, simulations: int = 600, width: "float" = 2, name=None):
    """A pipeline.

    Args:
        out: Run folder.
        simulations: Simulations to train on.
    """
    raise ValueError((simulations, width))
'''


def test_the_help_of_a_pipeline_lists_its_options(tmp_path: Path) -> None:
    file = tmp_path / "fit_it.py"
    file.write_text(PIPELINE)
    for words in (["run", file, "--help"], ["run", "-h", file]):
        result = call(*words)
        assert result.code == 0
        own = result.out.partition("Options of fit_it.py:")[2]
        assert "--simulations INTEGER  Simulations to train on.  [default: 600]" in own
        assert "--width NUMBER" in own
        assert "--seed" not in own
    assert "fit_it" not in call("run", "--help").out
    assert "(5, 0.5)" in call("run", file, "--out", tmp_path, "--width", 0.5, "--simulations", 5).error
    assert "did you mean --simulations?" in call("run", file, "--out", tmp_path, "--sims", 5).error


def test_a_pipeline_is_no_options_value(tmp_path: Path) -> None:
    """`--sim x.py pipe.py` took the simulator for the pipeline."""
    pipeline, simulator = tmp_path / "pipe.py", tmp_path / "x.py"
    pipeline.write_text(
        'def run(out, *, seed=0, sim: str = "", shift: float = 0.0):\n    raise ValueError((sim, shift))\n'
    )
    simulator.write_text("simulator = 1\n")
    assert "--sim TEXT" in call("run", "--sim", simulator, pipeline, "--help").out
    for words in (["--sim", simulator, "--shift", "-4", pipeline], [pipeline, f"--sim={simulator}", "--shift=-4"]):
        assert f"('{simulator}', -4.0)" in call("run", "-q", *words, "--out", tmp_path / "out").error
