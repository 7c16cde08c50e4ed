"""What belongs to an external program: itself, its template, the files its arguments name, and nothing installed."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import distributions as td

from sciinf.core import Prior
from sciinf.core.simulator import recorded, unlike
from sciinf.simulators.wrappers.external_command import command

PRIOR = Prior(rate=td.Uniform(0.0, 1.0))


@pytest.fixture
def parts(tmp_path):
    """A program, its template, a grid that it reads, and a script."""
    files = {name: tmp_path / name for name in ("epidemic", "input.ini", "grid.csv", "model.py")}
    files["epidemic"].write_text('#!/bin/sh\ncat "$1"\n')
    files["epidemic"].chmod(0o755)
    files["input.ini"].write_text("{rate}\n")
    files["grid.csv"].write_text("1,2\n")
    files["model.py"].write_text("import sys\nprint(sys.argv[1])\n")
    return files


def epidemic(parts):
    argv = [parts["epidemic"], "{input}", str(parts["grid.csv"]), "--seed", "{seed}"]
    return command(argv, PRIOR, {"x": ()}, template=parts["input.ini"])


def test_what_a_program_reads_belongs_to_it(parts):
    simulator = epidemic(parts)
    assert simulator(torch.tensor([[0.25]]), generator=torch.Generator()).x["x"].tolist() == [0.25]
    files = {"file epidemic", "file input.ini", "file grid.csv"}
    assert set(recorded(simulator)) == {"name", "source", *files}


@pytest.mark.parametrize("name", ["epidemic", "input.ini", "grid.csv"])
def test_a_program_made_anew_and_an_edited_template_are_changes(parts, name):
    before = recorded(epidemic(parts))
    parts[name].write_text(parts[name].read_text() + "\n")
    assert unlike(before, epidemic(parts)) == f"{name} has changed"
    # what earlier versions wrote down says nothing of these files
    assert unlike({"name": "epidemic", "source": ""}, epidemic(parts)) == ""


def test_an_interpreter_does_not_belong_but_its_script_does(parts):
    simulator = command([sys.executable, parts["model.py"], "{rate}"], PRIOR, {"x": ()}, name="model")
    before = recorded(simulator)
    assert set(before) == {"name", "source", "file model.py"}
    parts["model.py"].write_text("import sys\n\nprint(sys.argv[1])  # a comment\n")
    assert unlike(before, simulator) == ""
    parts["model.py"].write_text("import sys\nprint(2 * float(sys.argv[1]))\n")
    assert unlike(before, simulator) == "model.py has changed"
