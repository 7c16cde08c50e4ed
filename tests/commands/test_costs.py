"""What is much is said before it is begun."""

from __future__ import annotations

import re

import torch
from command_line import call

from sciinf import Flow, load_simulator
from sciinf.interfaces.commands.steps import tell_cost

SIMULATOR = """
import torch
from torch.distributions import Normal
from sciinf import Observable, Prior, Simulator


class Long(Simulator):
    name, prior, block = "long", Prior(a=Normal(0.0, 1.0)), 1
    observables = {"x": Observable((SIZE,))}

    def __call__(self, theta, *, generator):
        raise KeyboardInterrupt


simulator = Long()
"""


def test_a_million_numbers_are_said_to_cost(tmp_path):
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("SIZE", "10**6"))
    result = call("simulate", tmp_path / "sim.py", "-n", 20_000, "--block", 500, "--out", tmp_path / "store")
    assert result.code == 130
    expected = "20,000 simulations of 4 MB each take 80 GB of disk, and 2 GB of memory for 500 at once"
    assert f"warning: {expected}" in result.err


def test_what_is_little_is_not(tmp_path):
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("SIZE", "10"))
    assert "take" not in call("simulate", tmp_path / "sim.py", "-n", 20_000, "--out", tmp_path / "store").err


def test_a_network_of_many_parameters_is_said_to_cost(capsys, tmp_path):
    (tmp_path / "sim.py").write_text(SIMULATOR.replace("SIZE", "10**6"))
    simulator = load_simulator(tmp_path / "sim.py")
    with torch.device("meta"):  # sizes without memory
        estimator = Flow(simulator.prior, simulator.observables)
    tell_cost(simulator, 100, estimator=estimator)
    assert re.search(
        r"the network has 1[0-9]{2},[0-9]{3},[0-9]{3} parameters, [12]\.[0-9]+ GB in", capsys.readouterr().err
    )
