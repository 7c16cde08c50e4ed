"""Campaigns: what is drawn depends on the seed alone, and whatever fails ends as data or as a clear error."""

from __future__ import annotations

import shutil
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from torch import distributions as td

from sciinf.campaigns import simulation
from sciinf.campaigns.probe import probe_block
from sciinf.campaigns.simulation import repair, simulate
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator, Status


class Rowwise(Simulator):
    """One parameter, one number; `act(theta, call)` may raise or change the result."""

    name = "rowwise"
    prior = Prior(a=td.Uniform(0.0, 1.0))
    observables = {"v": Observable((2,)), "n": Observable((), dtype="int64")}
    block = 50

    def __init__(self, act=None):
        self.act, self.calls = act, 0

    def __call__(self, theta, *, generator):
        self.calls += 1
        x = {"v": theta + torch.randn(len(theta), 2, generator=generator), "n": (10 * theta[:, 0]).floor()}
        return x if self.act is None else self.act(theta, x, self.calls)


def quiet(simulator, path, n, **options) -> Store:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return simulate(simulator, path, n, progress=False, **options)


def test_an_interruption_loses_the_block_in_flight_at_most(tmp_path):
    def interrupted(theta, x, call):
        if call == 3:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        simulate(Rowwise(interrupted), tmp_path / "s", 250, progress=False)
    assert Store(tmp_path / "s").missing() == [2, 3, 4]
    whole = simulate(Rowwise(), tmp_path / "s", 250, progress=False)
    assert whole.digest == simulate(Rowwise(), tmp_path / "t", 250, progress=False).digest


def test_a_finished_campaign_is_not_run_again(tmp_path):
    simulate(Rowwise(), tmp_path, 120, progress=False)
    simulator = Rowwise()
    assert len(simulate(simulator, tmp_path, 120, progress=False)) == 120
    assert len(simulate(simulator, tmp_path, 70, progress=False)) == 120
    assert simulator.calls == 2, "each time one block is made anew and compared, and no more"


@pytest.mark.parametrize(("seconds", "cores", "asked"), [(0.0, 2, []), (100.0, 1, []), (100.0, 3, [3])])
def test_workers_are_taken_where_they_save_more_than_they_cost(seconds, cores, asked, tmp_path, monkeypatch, capsys):
    """A block is timed; what is simulated is the same."""
    seen, clock = [], iter([0.0, seconds])
    expected = simulate(Rowwise(), tmp_path / "t", 250, progress=False).digest

    def in_workers(count):
        seen.append(count)
        return simulation.Here()

    monkeypatch.setattr(simulation, "Workers", in_workers)
    monkeypatch.setattr(simulation, "cores_here", lambda: cores)
    monkeypatch.setattr(simulation, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert simulate(Rowwise(), tmp_path / "s", 250, workers="auto").digest == expected
    assert seen == asked
    assert ("3 workers" in capsys.readouterr().err) == bool(asked)


def test_a_simulator_that_workers_cannot_see_stays_here_and_it_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulation, "cores_here", lambda: 2)
    monkeypatch.setattr(simulation, "_STARTING", 0.0)
    simulator = Rowwise(lambda theta, x, call: x)
    assert len(simulate(simulator, tmp_path / "s", 250, workers="auto")) == 250
    assert "1 worker, for the simulator 'rowwise' was made in this session" in capsys.readouterr().err


def test_the_stores_block_size_is_kept(tmp_path):
    simulate(Rowwise(), tmp_path, 60, block=20, progress=False)
    assert simulate(Rowwise(), tmp_path, 90, progress=False).block == 20
    assert simulate(Rowwise(), tmp_path, 90, block="auto", progress=False).block == 20
    with pytest.raises(ValueError, match="block: 20 -> 30"):
        simulate(Rowwise(), tmp_path, 90, block=30, progress=False)


def test_threads_and_global_state_are_left_alone(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    seen = []

    def look(theta, x, call):
        seen.append(torch.get_num_threads())
        return x

    simulate(Rowwise(look), tmp_path, 60, progress=False)
    assert set(seen) == {1}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_changed_in_place_are_stored_as_drawn(tmp_path):
    def spoil(theta, x, call):
        theta.zero_()
        return x

    spoilt = simulate(Rowwise(spoil), tmp_path / "a", 60, progress=False).load().theta
    assert torch.equal(spoilt, simulate(Rowwise(), tmp_path / "b", 60, progress=False).load().theta)


def test_parameters_follow_the_prior(tmp_path):
    theta = simulate(Rowwise(), tmp_path, 5000, progress=False).load().theta[:, 0]
    assert stats.kstest(theta.numpy(), "uniform").pvalue > 1e-4  # false alarm 1e-4; the seed is fixed


# --- failures are data ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_the_rows_that_raise_fail(tmp_path):
    def raises(theta, x, call):
        if (theta[:, 0] < 0.01).any():
            raise ArithmeticError(f"theta is {theta[theta[:, 0] < 0.01][0].item():.6f}")
        return x

    with pytest.warns(UserWarning, match=r"of 5,000 simulations .* failed \(\d+ raised\).*store\.failures\(\)"):
        store = simulate(Rowwise(raises), tmp_path / "a", 5000, progress=False)
    theta = torch.cat([store.read(k)[0] for k in range(store.blocks)])[:, 0]
    status = torch.cat([store.read(k)[1].status for k in range(store.blocks)])
    assert torch.equal(status == Status.RAISED, theta < 0.01)
    assert 20 <= store.counts[Status.RAISED] <= 85  # Poisson of mean 50; the seed is fixed
    assert len(store.load()) == 5000 - store.counts[Status.RAISED]
    for failure in store.failures(limit=5):
        assert failure.message == f"ArithmeticError: theta is {failure.theta[0].item():.6f}"
    assert store.digest == quiet(Rowwise(raises), tmp_path / "b", 5000).digest


def test_rows_tried_again_have_noise_of_their_own(tmp_path):
    def raises(theta, x, call):
        if (theta[:, 0] < 0.05).any():
            raise ArithmeticError
        return x

    store = quiet(Rowwise(raises), tmp_path, 2000)
    batch = store.load()
    noise = batch.x["v"] - batch.theta
    assert len(torch.unique(noise)) > 0.999 * noise.numel()  # a few float32 coincide by chance
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4  # false alarm 1e-4; the seed is fixed


def test_rows_that_are_not_finite(tmp_path):
    def spoilt(theta, x, call):
        x["v"][theta[:, 0] < 0.1, 1] = float("nan")
        x["v"][theta[:, 0] > 0.9, 0] = float("inf")
        return x

    with pytest.warns(UserWarning, match="non finite"):
        store = simulate(Rowwise(spoilt), tmp_path, 500, progress=False)
    theta, outcome = store.read(0)
    bad = (theta[:, 0] < 0.1) | (theta[:, 0] > 0.9)
    assert torch.equal(outcome.status == Status.NON_FINITE, bad)
    assert outcome.x["v"][bad].isnan().all()
    assert (outcome.x["n"][bad] == 0).all()
    assert store.failures()[0].message == "NaN or infinite values in 'v'"
    assert torch.isfinite(store.load().x["v"]).all()


def test_a_simulator_that_always_raises_is_stopped_after_a_block(tmp_path):
    def broken(theta, x, call):
        raise NameError("name 'alhpa' is not defined")

    simulator = Rowwise(broken)
    with pytest.raises(ValueError, match=r"50 of 50 .*50 raised.*refused above 50%.*NameError: name 'alhpa'"):
        simulate(simulator, tmp_path, 500, progress=False)
    store = Store(tmp_path)
    assert (len(store), store.counts[Status.RAISED], len(store.missing())) == (50, 50, 9)
    assert len(store.load()) == 0
    # a single block that failed whole is refused when it is asked for again, too
    simulator = Rowwise(broken)
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            simulate(simulator, tmp_path / "single", 50, progress=False)
    assert simulator.calls == 99


def test_the_first_rows_alone_do_not_condemn_a_campaign(tmp_path):
    # The first block of one row fails and no other: with a verdict after it the campaign would be refused.
    def first_raises(theta, x, call):
        if call <= 2:  # the block, and its one row tried again alone
            raise RuntimeError("warming up")
        return x

    with pytest.warns(UserWarning, match="failed"):
        store = simulate(Rowwise(first_raises), tmp_path, 60, block=1, progress=False)
    assert len(store) == 60
    assert store.counts[Status.RAISED] in (1, 2)


def test_rows_of_before_are_not_used_without_a_word(tmp_path):
    simulate(Rowwise(), tmp_path, 120, progress=False)
    with pytest.warns(UserWarning, match="70 simulations were asked for"):
        assert len(simulate(Rowwise(), tmp_path, 70, progress=False)) == 120
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(Rowwise(), tmp_path, 120, progress=False)


def test_sys_exit_is_a_failure_like_others(tmp_path):
    def leaves(theta, x, call):
        if (theta[:, 0] < 0.1).any():
            raise SystemExit("convergence failed")
        return x

    store = quiet(Rowwise(leaves), tmp_path, 200)
    assert store.failures()[0].message == "SystemExit: convergence failed"


def test_memory_is_not_spared_by_halving(tmp_path):
    def greedy(theta, x, call):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="50 rows do not fit in memory.*make blocks smaller"):
        simulate(Rowwise(greedy), tmp_path, 100, progress=False)


def test_another_shape_on_the_second_batch(tmp_path):
    def grows(theta, x, call):
        return {**x, "v": torch.zeros(len(theta), 3)} if call == 2 else x

    message = r"block 1 .*'v' has shape \(50, 3\), expected \(50, 2\).*finished before are kept"
    with pytest.raises(ValueError, match=message):
        simulate(Rowwise(grows), tmp_path, 200, progress=False)
    assert Store(tmp_path).missing() == [1, 2, 3]


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        (lambda x: {"v": x["v"]}, ValueError, r"missing: \['n'\]"),
        (lambda x: {**x, "w": x["v"]}, ValueError, r"unknown: \['w'\]"),
        (lambda x: None, TypeError, "returned NoneType"),
        (lambda x: x["v"], TypeError, "returned Tensor"),
        (lambda x: {**x, "v": x["v"][:-1]}, ValueError, r"shape \(49, 2\), expected \(50, 2\)"),
        (lambda x: {**x, "v": "text"}, TypeError, "no array of numbers for 'v'"),
        (lambda x: {**x, "v": x["v"] + 0j}, TypeError, "complex"),
        (lambda x: {**x, "n": x["n"] + 0.5}, ValueError, "declared int64, but holds values such as"),
        (lambda x: Outcome(x, torch.zeros(3)), ValueError, r"status has shape \(3,\)"),
        (lambda x: Outcome(x, torch.full((50,), 7)), ValueError, r"values \[7\]"),
        (lambda x: Outcome(x, None, {50: "late"}), ValueError, r"rows \[50\]"),
    ],
)
def test_broken_promises_stop_at_once(tmp_path, result, kind, text):
    simulator = Rowwise(lambda theta, x, call: result(x))
    with pytest.raises(kind, match=text):
        simulate(simulator, tmp_path, 100, progress=False)
    assert simulator.calls == 1
    assert len(Store(tmp_path)) == 0


@pytest.mark.parametrize(
    "options", [{"n": 0}, {"n": 1.5}, {"seed": -1}, {"workers": 0}, {"workers": "all"}, {"timeout": 0.0}, {"block": 0}]
)
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        simulate(Rowwise(), tmp_path, **{"n": 10, **options})


def test_something_else_than_a_simulator(tmp_path):
    with pytest.raises(TypeError, match=r"sciinf\.wrappers\.numpy"):
        simulate(lambda theta: theta, tmp_path, 10)


def test_probing_for_a_block_size(tmp_path):
    assert probe_block(Rowwise(), 40, seed=0, device="cpu") == 40
    assert 64 <= probe_block(Rowwise(), 100_000, seed=0, device="cpu") <= 65_536
    store = simulate(Rowwise(), tmp_path, 300, block="auto", progress=False)
    assert store.block in (64, 128, 256)

    # rows one after the other, as a program called row by row: larger batches gain nothing
    def slow(theta, x, call):
        time.sleep(0.0005 * len(theta))
        return x

    assert probe_block(Rowwise(slow), 100_000, seed=0, device="cpu") <= 128


# --- repair ---------------------------------------------------------------------------------------------------------


def test_repair_simulates_what_is_damaged_and_nothing_else(tmp_path):
    digest = simulate(Rowwise(), tmp_path, 500, progress=False).digest
    store = Store(tmp_path)
    data = bytearray(store.file(2).read_bytes())
    data[len(data) // 2] ^= 4
    store.file(2).write_bytes(bytes(data))
    store.file(5).unlink()
    store.file(7).write_bytes(store.file(7).read_bytes()[:1000])
    simulator = Rowwise()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repair(Store(tmp_path), simulator) == [2, 5, 7]
    assert simulator.calls == 3
    assert Store(tmp_path).damaged() == []
    assert Store(tmp_path).digest == digest
    assert repair(Store(tmp_path), simulator) == []


def test_repair_refuses_another_simulator_and_tells_other_results(tmp_path):
    store = simulate(Rowwise(), tmp_path, 100, progress=False)
    other = Rowwise()
    other.name = "other"
    with pytest.raises(ValueError, match="simulations of another simulator, 'rowwise', not of 'other'"):
        repair(store, other)
    store.file(1).unlink()
    with pytest.warns(UserWarning, match=r"blocks \[1\] .*otherwise"):
        repair(Store(tmp_path), Rowwise(lambda theta, x, call: {**x, "v": x["v"] * (1 + 1e-6)}))


def test_a_simulator_of_this_session_needs_a_file(tmp_path):
    simulator = Rowwise(lambda theta, x, call: x)
    with pytest.raises(ValueError, match=r"cannot be sent to worker processes.*load_simulator\(path\).*workers=1"):
        simulate(simulator, tmp_path, 100, workers=2, progress=False)
    assert simulator.calls == 0


def test_progress_in_plain_lines(tmp_path, capsys):
    simulate(Rowwise(), tmp_path, 120)
    out = capsys.readouterr()
    assert out.err.startswith("120 of 120 simulations, ")
    assert out.out == ""
    shutil.rmtree(tmp_path / "shards")
    simulate(Rowwise(), tmp_path, 120, progress=False)
    assert capsys.readouterr().err == ""


def test_machines_without_a_disk_in_common_begin_at_blocks_of_their_own(tmp_path, monkeypatch):
    store, blocks = simulate(Rowwise(), tmp_path, 10, progress=False), list(range(100))
    assert simulation._turned(store, blocks) == blocks
    monkeypatch.setattr(type(store.folder), "path", lambda *_: None)
    orders = [simulation._turned(store, blocks) for _ in range(20)]
    assert len({order[0] for order in orders}) > 5
    assert all(sorted(order) == blocks for order in orders)
