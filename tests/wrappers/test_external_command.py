"""External programs: what reaches them, what comes back, and every way in which they can misbehave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core import Observable, Prior, Status
from sciinf.simulators.wrappers.external_command import command, fill, read_results

PRIOR = Prior(rate=(td.Uniform(0.0, 1.0), "1/h"), shift=td.Normal(0.0, 1.0))
THETA = torch.tensor([[0.1, -2.0], [0.25, 3.5], [1 / 3, 1e-5]])


def shell(script, observables=None, **options):
    """A simulator from a shell script whose $1, $2, $3 are rate, shift and seed."""
    argv = ["sh", "-c", script, "sh", "{rate}", "{shift}", "{seed}"]
    return command(argv, PRIOR, observables or {"x": (2,)}, **options)


def run(simulator, theta=THETA, seed=0):
    return simulator(theta, generator=torch.Generator().manual_seed(seed))


def statuses(outcome):
    return [Status(int(s)) for s in outcome.status]


def alive(pid):
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually_gone(pid, seconds=5.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("processes", [1, 3])
def test_parameters_arrive_exactly(processes):
    outcome = run(shell("echo $1 $2", processes=processes))
    assert statuses(outcome) == [Status.OK] * 3
    assert torch.equal(outcome.x["x"], THETA)
    double = run(shell("echo $1 $2", {"x": Observable((2,), dtype="float64")}), THETA.double() / 3)
    assert torch.equal(double.x["x"], THETA.double() / 3)


def test_parameters_are_short_decimals():
    assert Path("/bin/sh").exists()
    outcome = run(shell("echo ${#1} ${#2}"))
    assert outcome.x["x"][0].tolist() == [len("0.1"), len("-2.0")]


def test_a_known_answer_from_a_python_program_with_template_and_output(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import json, sys
            with open(sys.argv[1]) as file:
                settings = json.load(file)
            rate, shift = settings["model"]["rate"], settings["model"]["shift"]
            with open(sys.argv[2], "w") as file:
                json.dump({"decay": [rate * k + shift for k in range(3)], "total": rate - shift, "note": "more"}, file)
            """
        )
    )
    simulator = command(
        [sys.executable, "-S", program, "{input}", "{output}"],
        PRIOR,
        {"decay": ((3,), "mV"), "total": ()},
        template='{"model": {"rate": {rate}, "shift": {shift:.9e}}}',
        output="result.json",
        name="decay",
    )
    outcome = run(simulator)
    assert simulator.name == "decay"
    assert statuses(outcome) == [Status.OK] * 3
    expected = THETA[:, :1] * torch.arange(3) + THETA[:, 1:]
    assert torch.allclose(outcome.x["decay"], expected, rtol=1e-6)
    assert torch.allclose(outcome.x["total"], THETA[:, 0] - THETA[:, 1], rtol=1e-6)


def test_a_template_file_keeps_its_name_in_the_folder_of_the_run(tmp_path):
    (tmp_path / "model.ini").write_text("[run]\nrate = {rate}\nshift = {shift}\nliteral = {{rate}}\n")
    argv = ["sh", "-c", "grep -c literal...{.ate} model.ini; pwd >&2; test $PWD = {folder} && echo 7"]
    outcome = run(command(argv, PRIOR, {"x": (2,)}, template=tmp_path / "model.ini"))
    assert statuses(outcome) == [Status.OK] * 3
    assert outcome.x["x"].tolist() == [[1.0, 7.0]] * 3


def test_environment_and_parse():
    def parse(folder, stdout):
        return {"x": [float((folder / "a.txt").read_text()), float(stdout)]}

    argv = ["sh", "-c", "echo $RATE > a.txt; echo {shift}"]
    outcome = run(command(argv, PRIOR, {"x": (2,)}, parse=parse, environment={"RATE": "{rate}"}))
    assert torch.equal(outcome.x["x"], THETA)


def test_seeds_are_reproducible_distinct_and_independent_of_the_batch():
    simulator = shell("echo $3 0", {"x": Observable((2,), dtype="int64")})
    many = THETA.repeat(4, 1)
    first = run(simulator, many).x["x"][:, 0]
    assert len(set(first.tolist())) == 12
    assert int(first.min()) > 0
    assert int(first.max()) < 2**31 - 1
    assert torch.equal(first, run(simulator, many).x["x"][:, 0])
    assert torch.equal(first[:2], run(simulator, many[:2]).x["x"][:, 0])
    assert not torch.equal(first, run(simulator, many, seed=1).x["x"][:, 0])


def test_the_global_generators_are_not_touched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(shell("echo 1 2"))
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("processes", [1, 3])
def test_a_failed_row_leaves_the_others_unharmed(processes):
    script = 'if [ $1 = 0.25 ]; then echo "no convergence" >&2; exit 3; fi; echo $1 $2'
    outcome = run(shell(script, processes=processes))
    assert statuses(outcome) == [Status.OK, Status.RAISED, Status.OK]
    assert outcome.messages == {1: "exit status 3: no convergence"}
    assert torch.equal(outcome.x["x"][[0, 2]], THETA[[0, 2]])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo hello world", "not all numbers: 'hello world'"),
        ("echo 1 2 3", "3 numbers, expected 2"),
        ("true", "empty"),
        ("echo '{\"y\": [1, 2]}'", "missing ['x']"),
        ("echo '{\"x\": [1, 2, 3]}'", "shape (3,)"),
        ("echo '{\"x\": [1, 2'", "no JSON"),
        ('echo \'{"x": "a"}\'', "expected real numbers"),
    ],
)
def test_unreadable_results_say_why(script, words):
    outcome = run(shell(script), THETA[:1])
    assert statuses(outcome) == [Status.RAISED]
    assert words in outcome.messages[0]


def test_a_missing_output_file_says_so():
    outcome = run(shell("echo 1 2", output="result.json"), THETA[:1])
    assert statuses(outcome) == [Status.RAISED]
    assert "wrote no file 'result.json'" in outcome.messages[0]


def test_nan_passes_for_the_status_and_is_lost_in_integers():
    assert run(shell("echo nan 1"), THETA[:1]).x["x"].isnan().tolist() == [[True, False]]
    counts = run(shell("echo nan 1", {"x": Observable((2,), dtype="int64")}), THETA[:1])
    assert statuses(counts) == [Status.NON_FINITE]


def test_a_program_that_dies_is_tried_again_and_then_given_up(tmp_path):
    script = f"echo >> {tmp_path}/runs-$1-$3; [ $1 = 0.25 ] && kill -SEGV $$; echo $1 $2"
    outcome = run(shell(script, tries=3))
    assert statuses(outcome) == [Status.OK, Status.RAISED, Status.OK]
    assert "signal 11 (SIGSEGV) in each of 3 tries" in outcome.messages[1]
    runs = sorted(len(file.read_text()) for file in tmp_path.iterdir())
    assert runs == [1, 1, 3]  # one file per row: every try had the row's own seed


def test_a_program_that_dies_once_succeeds_in_the_end(tmp_path):
    script = f"if mkdir {tmp_path}/died-$1 2>/dev/null; then kill -KILL $$; fi; echo $1 $2"
    outcome = run(shell(script, tries=2))
    assert statuses(outcome) == [Status.OK] * 3
    assert torch.equal(outcome.x["x"], THETA)


@pytest.mark.parametrize("processes", [1, 3])
def test_a_hung_program_is_killed_with_all_it_started(tmp_path, processes):
    script = f"[ $1 = 0.25 ] || {{ echo $1 $2; exit; }}; sleep 60 & echo $! > {tmp_path}/child; echo so far; wait"
    begin = time.monotonic()
    outcome = run(shell(script, timeout=0.5, processes=processes))
    assert time.monotonic() - begin < 10
    assert statuses(outcome) == [Status.OK, Status.TIMED_OUT, Status.OK]
    assert outcome.messages == {1: "killed after 0.5 s: so far"}
    assert eventually_gone(int((tmp_path / "child").read_text()))


def test_what_a_program_leaves_in_the_background_is_ended(tmp_path):
    outcome = run(shell(f"sleep 60 & echo $! > {tmp_path}/child; echo 1 2"), THETA[:1])
    assert statuses(outcome) == [Status.OK]
    assert eventually_gone(int((tmp_path / "child").read_text()))


def test_rows_run_at_once(tmp_path):
    # Each run waits until three have begun: one at a time would never end.
    script = f"touch {tmp_path}/$3; while [ $(ls {tmp_path} | wc -l) -lt 3 ]; do sleep 0.02; done; echo $1 $2"
    outcome = run(shell(script, processes=3, timeout=20.0))
    assert statuses(outcome) == [Status.OK] * 3
    assert torch.equal(outcome.x["x"], THETA)


def test_folders_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(shell("[ $1 = 0.1 ] && exit 1; mkdir deep; echo > deep/file; echo $1 $2"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT])
def test_no_program_outlives_us(tmp_path, way):
    code = f"""
import torch
from torch import distributions as td
from sciinf.core import Prior
from sciinf.simulators.wrappers.external_command import command
script = "echo $$ > pid; mv pid {tmp_path}/pid-{{seed}}; sleep 60"
argv = ["sh", "-c", script, "{{x}}"]
simulator = command(argv, Prior(x=td.Normal(0.0, 1.0)), {{"x": ()}}, processes=2)
simulator(torch.zeros(4, 1), generator=torch.Generator())
"""
    ours = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("pid-*[0-9]"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    programs = [int(file.read_text()) for file in tmp_path.glob("pid-*[0-9]")]
    assert len(programs) == 2
    assert all(alive(pid) for pid in programs)
    os.kill(ours.pid, way)
    _, said = ours.communicate(timeout=20)
    assert ours.returncode == -way or b"KeyboardInterrupt" in said
    assert all(eventually_gone(pid) for pid in programs)


def test_a_guard_that_does_nothing_is_noticed(tmp_path, monkeypatch):
    # The planted fault: without the kill of the group, the descendants of a hung program live on.
    monkeypatch.setattr(os, "killpg", lambda group, number: os.kill(group, number))
    run(shell(f"sleep 60 & echo $! > {tmp_path}/child; wait", timeout=0.3), THETA[:1])
    child = int((tmp_path / "child").read_text())
    assert not eventually_gone(child, 0.3)
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("program", ["no-such-program", "./no-such-program", __file__])
def test_a_missing_program_is_refused_at_once(program):
    with pytest.raises(ValueError, match="absolute path"):
        command([program, "{rate}", "{shift}"], PRIOR, {"x": ()})


def test_a_program_that_vanished_is_no_failed_row(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho 1\n")
    program.chmod(0o755)
    simulator = command([program, "{rate}", "{shift}"], PRIOR, {"x": ()})
    assert statuses(run(simulator)) == [Status.OK] * 3
    program.unlink()
    with pytest.raises(ValueError, match="cannot be started"):
        run(simulator)


@pytest.mark.parametrize(
    ("argv", "options", "words"),
    [
        (["sh", "{rat}", "{shift}"], {}, "did you mean 'rate'"),
        (["sh", "{rate}"], {}, r"\['shift'\] reach the program nowhere"),
        (["sh", "{rate:d}", "{shift}"], {}, "rate:d"),
        (["sh", "{rate}", "{shift}", "{seed:.3f}"], {}, "take a format"),
        (["sh", "{rate}", "{shift}", "{input}"], {}, "template"),
        (["sh", "{rate}", "{shift}", "{output}"], {}, "output="),
        (["sh", "{rate}", "{shift}"], {"output": "a/b.json"}, "name of a file"),
        (["sh", "{rate}", "{shift}"], {"timeout": 0.0}, "positive"),
        (["sh"], {"template": "{rate} {shif}"}, "the template has the placeholder {shif}"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(argv, options, words):
    with pytest.raises(ValueError, match=words):
        command(argv, PRIOR, {"x": ()}, **options)


def test_a_single_string_and_a_reserved_name_are_refused():
    with pytest.raises(TypeError, match="list of strings"):
        command("sh -c true", PRIOR, {"x": ()})
    with pytest.raises(ValueError, match="'seed'"):
        command(["sh", "{seed}"], Prior(seed=td.Normal(0.0, 1.0)), {"x": ()})


def test_braces_that_are_no_placeholders_stay():
    values = {"rate": "0.1"}
    assert fill('{"a": {"b": {rate}}} {{rate}} {} { rate } {rate:.2e}', values) == (
        '{"a": {"b": 0.1}} {rate} {} { rate } 1.00e-01'
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("numbers.txt", "# time series\n1 2, 3\n4;5.0D+00 6e0 7"),
        ("table.csv", '"scalar",series_0,series_1,more\n1,2,3,9\n'),
        ("object.json", '{"scalar": 1, "series": [2, 3]}'),
    ],
)
def test_kinds_of_results(tmp_path, file, text):
    observables = {"scalar": Observable(), "series": Observable((2,))}
    if file == "numbers.txt":
        observables["matrix"] = Observable((2, 2))
    (tmp_path / file).write_text(text)
    found = read_results(observables, tmp_path / file, where="file")
    assert float(found["scalar"]) == 1.0
    assert np.asarray(found["series"]).tolist() == [2.0, 3.0]
    if "matrix" in observables:
        assert found["matrix"].tolist() == [[4.0, 5.0], [6.0, 7.0]]


def test_a_table_with_one_row_per_time(tmp_path):
    (tmp_path / "out.csv").write_text("t,prey,predator_0,predator_1\n0,1,2,3\n1,4,5,6\n")
    observables = {"prey": Observable((2,)), "predator": Observable((2, 2))}
    found = read_results(observables, tmp_path / "out.csv", where="file")
    assert found["prey"].tolist() == [1.0, 4.0]
    assert found["predator"].tolist() == [[2.0, 3.0], [5.0, 6.0]]
    with pytest.raises(ValueError, match="rows of the columns"):
        read_results({"prey": Observable((3,))}, tmp_path / "out.csv", where="file")


def test_npz_results(tmp_path):
    np.savez(tmp_path / "out.npz", x=np.arange(6.0).reshape(2, 3))
    assert read_results({"x": Observable((2, 3))}, tmp_path / "out.npz", where="file")["x"].shape == (2, 3)
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="plain arrays"):
        read_results({"x": Observable()}, tmp_path / "bad.npz", where="file")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "out.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"no readable \.npz"):
        read_results({"x": Observable()}, tmp_path / "cut.npz", where="file")
