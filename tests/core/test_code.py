"""What counts as a change of a simulator: code and files, however they are imported, and no comment."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from torch import distributions as td

from sciinf.core import Prior, Simulator, identity, source_hash
from sciinf.core.code import mark, same_mark
from sciinf.core.observation import Observable
from sciinf.core.simulator import earlier_identity, recorded, unlike

SIM = '"""A page."""\nimport helper\n\n\ndef f(a):\n    """Words."""\n    from tools.late import B\n    return a + B\n'


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable()}

    def __call__(self, theta, *, generator):
        return {"x": theta[:, 0]}


@pytest.fixture
def simulator(tmp_path):
    """One in a file that imports a module, and another of a package, in a function, which imports a third."""
    (tmp_path / "tools").mkdir()
    for name, text in {
        "sim.py": SIM,
        "helper.py": "import math, numpy\nNOISE = 1.0\n",
        "tools/__init__.py": "",
        "tools/late.py": "from . import table\nB = table.C  # a comment\n",
        "tools/table.py": "C = 1\n",
        "unrelated.py": "D = 1\n",
        "data.csv": "1,2\n",
    }.items():
        (tmp_path / name).write_text(text)
    made = Plain()
    made.source = tmp_path / "sim.py"
    return made


def test_all_that_is_imported_belongs_to_a_simulator_and_nothing_else(simulator):
    files = {"file helper.py", "file tools/__init__.py", "file tools/late.py", "file tools/table.py"}
    assert set(identity(simulator)) == {"name", "source", *files}
    simulator.files = (simulator.source.parent / "data.csv", Path(__file__))
    assert set(identity(simulator)) == {"name", "source", *files, "file data.csv", "file test_code.py"}


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("sim.py", SIM.replace("a + B", "a - B"), "sim.py has changed"),
        ("helper.py", "import math, numpy\nNOISE = 9.0\n", "helper.py has changed"),
        ("tools/table.py", "C = 2\n", "tools/table.py has changed"),
        ("tools/late.py", "B = 1\n", "tools/late.py has changed, tools/table.py is no part of it any more"),
        ("data.csv", "1,3\n", "data.csv has changed"),
        ("helper.py", "import unrelated\nNOISE = 1.0\n", "helper.py has changed, unrelated.py is new in it"),
    ],
)
def test_a_change_is_named(simulator, file, text, says):
    simulator.files = (simulator.source.parent / "data.csv",)
    before, known = recorded(simulator), identity(simulator)
    (simulator.source.parent / file).write_text(text)
    assert unlike(before, simulator) == says
    assert identity(simulator) != known


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sim.py", SIM.replace('"""Words."""', '"""Other words."""  # and a comment').replace("a + B", "(a  +  B)")),
        ("helper.py", '"""Documented."""\nimport math, numpy  # both\n\n# sd, mV\nNOISE = 1.0\n'),
        ("tools/__init__.py", '"""Tools."""\n'),
        ("unrelated.py", "D = 2\n"),
    ],
)
def test_words_and_format_are_no_change(simulator, file, text):
    before, known = recorded(simulator), identity(simulator)
    (simulator.source.parent / file).write_text(text)
    assert unlike(before, simulator) == ""
    assert identity(simulator) == known


def test_what_earlier_versions_wrote_down_is_still_known(simulator):
    before = earlier_identity(simulator)
    assert before == {"name": "plain", "source": hashlib.sha256(SIM.encode()).hexdigest()}
    assert unlike(before, simulator) == ""
    simulator.source.write_text(SIM + "# a comment\n")
    assert unlike(before, simulator) == (
        "sim.py has changed (an earlier version of sciinf wrote down its text alone, so that even a comment counts)"
    )


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        (["data.csv"], TypeError, r"'plain' is a list of paths .*with_name\('grid.txt'\)\], got \['data.csv'\]"),
        ("data.csv", TypeError, "is a list of paths"),
        (Path("data.csv"), TypeError, "is a list of paths"),
        ([Path("none.csv")], FileNotFoundError, r"names what is no file: \['none.csv'\]"),
    ],
)
def test_what_are_no_files_is_said(simulator, files, error, words):
    simulator.files = files
    with pytest.raises(error, match=words):
        identity(simulator)


def test_a_folder_is_known_by_all_its_files(simulator):
    folder = simulator.source.parent
    (folder / "__init__.py").write_text("import helper\n")
    (folder / ".notes.swp").write_text("what an editor leaves")
    simulator.source = folder
    before = recorded(simulator)
    assert {"file data.csv", "file unrelated.py", "file sim.py"} < set(before)
    assert "file .notes.swp" not in before
    assert unlike(earlier_identity(simulator), simulator) == ""
    (folder / "data.csv").write_text("1,9\n")
    assert unlike(before, simulator) == "data.csv has changed"
    assert "has changed (an earlier" in unlike({**before, "source": "0" * 64}, simulator)


def test_marks_survive_another_parser_and_values_that_are_none_are_compared_whole(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    code, text = mark(file).split()
    assert same_mark(f"code:read-otherwise {text}", mark(file))  # a version of Python that reads another tree
    assert same_mark(text, mark(file))
    assert not same_mark(f"code:read-otherwise {'0' * 64}", mark(file))
    assert not same_mark("(0.1, 0.2) sd 1", "(0.1, 0.2) sd 2"), "the fault: settings that share a word are equal"
    file.write_text("x = (\n")  # no Python; its bytes count
    assert not same_mark(f"{code} {text}", mark(file))


def test_a_simulator_outside_a_file_is_known_by_name_and_settings():
    made = Plain()
    made.settings = lambda: {"width": "3"}
    assert json.loads(json.dumps(recorded(made))) == {"name": "plain", "source": "", "width": "3"}
    assert source_hash(made) == ""
    assert unlike({"name": "plain", "source": "", "width": "2"}, made) == "width was 2, is 3"
