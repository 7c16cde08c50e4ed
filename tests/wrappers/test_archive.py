"""Archives: every number within its tolerance, everything else as it was, damage told, and a store again."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulators.fields import Decay

from sciinf import Normal, Recipe, Uniform, simulate, train, wrappers
from sciinf.campaigns import Store
from sciinf.campaigns import archive as module
from sciinf.campaigns.storage import bounded
from sciinf.campaigns.storage.archive_block import stepped
from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.core.files import sealed
from sciinf.emulators import Operator
from sciinf.networks.spectral import Fourier
from sciinf.wrappers import Archive, Relative, archived, write_archive

ROWS, BLOCK = 25, 7
FAILED = {3: Status.RAISED, 11: Status.TIMED_OUT, 12: Status.NON_FINITE}
TOLERANCE = {"u": Relative(1e-2), "level": 1e-6}


class Everything(Simulator):
    """Observables of every kind, and rows that fail in every way."""

    name = "everything"
    prior = Prior(rate=(Uniform(0.0, 1.0), "1/s"), site=Normal(1e6, 1.0))
    observables = {
        "u": Observable((3, 2, 9, 6), "K", ("time", "channel", "y", "x"), coords={"channel": ["warm", "cold"]}),
        "level": Observable((), dtype="float64"),
        "counts": Observable((4,), dtype="int64"),
        "seen": Observable((3,), dtype="bool"),
        "plain": Observable((5,)),
    }

    def __call__(self, theta, *, generator):
        rows = len(theta)
        waves = torch.linspace(0, 3, 9)[:, None] + torch.linspace(0, 5, 6) + 9 * theta[:, :1, None, None, None].float()
        shift = torch.arange(3)[:, None, None, None] + 2.0 * torch.arange(2)[:, None, None]
        noise = 0.1 * torch.randn(rows, 3, 2, 9, 6, generator=generator)
        x = {
            "u": (waves + shift).sin() + noise,
            "level": theta[:, 1].double(),
            "counts": torch.randint(-(2**60), 2**60, (rows, 4), generator=generator),
            "seen": torch.rand(rows, 3, generator=generator) < 0.5,
            "plain": torch.randn(rows, 5, generator=generator),
        }
        return Outcome(x)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """25 rows in blocks of 7, of which three failed."""
    simulator, generator = Everything(), torch.Generator().manual_seed(0)
    made = Store.create(tmp_path_factory.mktemp("made") / "store", simulator, seed=3, block=BLOCK, rows=ROWS)
    for index in range(made.blocks):
        rows = made.rows_of(index)
        theta = simulator.prior.sample(rows, generator=generator)
        status, texts = torch.zeros(rows, dtype=torch.uint8), {}
        for row, flag in FAILED.items():
            if index * BLOCK <= row < index * BLOCK + rows:
                status[row - index * BLOCK], texts[row - index * BLOCK] = int(flag), f"row {row} failed"
        made.commit(index, theta, Outcome(simulator(theta, generator=generator).x, status, texts), seconds=0.0)
    return made


@pytest.fixture(scope="module")
def written(store, tmp_path_factory):
    """Its archive, in blocks of 10 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_NUMBERS", 10 * (324 + 1 + 4 + 3 + 5))
        return write_archive(store, tmp_path_factory.mktemp("written") / "a.archive", TOLERANCE)


def equal(one, other):
    """Whether two blocks are the same to the last bit, failed rows' fillers included."""
    return all(
        np.array_equal(a.numpy(), b.numpy(), equal_nan=a.is_floating_point())
        for a, b in [
            (one[0], other[0]),
            (one[1].status, other[1].status),
            *((value, other[1].x[name]) for name, value in one[1].x.items()),
        ]
    ) and dict(one[1].messages) == dict(other[1].messages)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_numbers_are_within_the_tolerance_and_the_rest_is_as_it_was(store, written):
    true, again = store.load(), archived(written.path, out=store.path.parent / "again").load()
    assert (written.rows, written.block, written.size) == (ROWS, 10, written.path.stat().st_size)
    span = float(true.x["u"].max()) - float(true.x["u"].min())
    assert written.tolerance == pytest.approx({"u": 0.01 * span, "level": 1e-6, "counts": 0, "seen": 0, "plain": 0})
    for name in ("u", "level"):
        off = float((true.x[name].double() - again.x[name].double()).abs().max())
        assert 0.5 * written.tolerance[name] < off == written.error[name] <= written.tolerance[name]
    assert torch.equal(true.theta, again.theta)
    for name in ("counts", "seen", "plain"):
        assert torch.equal(true.x[name], again.x[name])
    assert written.size < 0.25 * sum(store.file(index).stat().st_size for index in range(store.blocks))


def test_failures_and_all_that_describes_the_store_are_kept(store, written):
    again = archived(written.path, out=store.path.parent / "failures")
    assert again.counts == store.counts
    assert [(f.row, f.status, f.message) for f in again.failures()] == [
        (row, flag, f"row {row} failed") for row, flag in FAILED.items()
    ]
    assert again.prior.to_json() == store.prior.to_json()
    assert {n: o.to_json() for n, o in again.observables.items()} == {
        n: o.to_json() for n, o in store.observables.items()
    }
    assert again.simulator["name"] == "everything"
    assert written.about == {"simulator": store.simulator, "seed": 3, "digest": store.digest}
    assert "25 simulations of 'everything'" in repr(written)


def test_rows_are_read_alone_as_together(written):
    theta, outcome = written.read()
    for rows in (slice(0, 1), slice(8, 13), slice(10, 20), slice(24, None), slice(-4, -1)):
        part = theta[rows], module._part(outcome, slice(*rows.indices(ROWS)[:2]))
        assert equal(written.read(rows), part)
    for rows in (slice(5, 5), slice(0, 9, 2), slice(30, 40)):
        with pytest.raises(ValueError, match="names no rows that follow one another"):
            written.read(rows)


@pytest.mark.slow
def test_the_same_store_gives_the_same_bytes(store, written, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 10 * 337)
    assert digest(write_archive(store, tmp_path / "b", TOLERANCE).path) == digest(written.path)
    assert digest(write_archive(store, tmp_path / "c", {**TOLERANCE, "u": 0.1}).path) != digest(written.path)


def test_an_archive_becomes_the_same_store_and_lost_blocks_come_back(store, written, tmp_path):
    first = archived(written.path, out=tmp_path / "store")
    was = first.digest
    first.file(1).unlink()
    assert archived(written.path, out=tmp_path / "store").digest == was
    other = write_archive(store, tmp_path / "other", {"u": 0.2})
    with pytest.raises(ValueError, match="something else"):
        archived(other.path, out=tmp_path / "store")
    facts = json.loads((tmp_path / "store" / "fields.json").read_text())
    assert facts["archived"]["digest"] == store.digest
    assert facts["files"] == [{"sha256": digest(written.path), "bytes": written.size}]


def test_what_the_rows_were_drawn_from_is_kept(tmp_path):
    class Round:
        def to_json(self):
            return {"kind": "truncated prior", "acceptance": 0.5}

    simulator = Everything()
    made = Store.create(tmp_path / "s", simulator, seed=0, block=4, rows=4, proposal=Round().to_json())
    theta = simulator.prior.sample(4, generator=torch.Generator().manual_seed(0))
    made.commit(0, theta, simulator(theta, generator=torch.Generator().manual_seed(1)), seconds=0.0)
    archive = write_archive(made, tmp_path / "a", {"u": 0.1})
    assert archived(archive.path, out=tmp_path / "again").proposal == made.proposal == Round().to_json()


def test_constant_and_zero_observables_take_no_room(tmp_path):
    class Still(Simulator):
        name, prior, block = "still", Prior(a=Uniform(0.0, 1.0)), 50
        observables = {"u": Observable((20, 20)), "o": Observable((20, 20))}

        def __call__(self, theta, *, generator):
            return {"u": torch.full((len(theta), 20, 20), 7.5), "o": torch.zeros(len(theta), 20, 20)}

    made = simulate(Still(), tmp_path / "s", 50, progress=False)
    archive = write_archive(made, tmp_path / "a", {"u": Relative(1e-3), "o": 0.1})
    assert archive.tolerance == {"u": 0.0, "o": 0.0}
    assert archive.size < 3000
    assert torch.equal(archive.read()[1].x["u"], made.load().x["u"])


def test_a_store_whose_rows_all_failed_is_kept(tmp_path):
    simulator = Everything()
    made = Store.create(tmp_path / "s", simulator, seed=0, block=5, rows=5)
    theta = simulator.prior.sample(5, generator=torch.Generator().manual_seed(0))
    x = simulator(theta, generator=torch.Generator().manual_seed(1)).x
    made.commit(0, theta, Outcome({**x, "u": x["u"] * math.nan}), seconds=0.0)
    theta, outcome = write_archive(made, tmp_path / "a", {"u": Relative(1e-3)}).read()
    assert torch.equal(theta, made.read(0)[0])
    assert outcome.status is not None
    assert (outcome.status == Status.NON_FINITE).all()
    assert outcome.x["u"].isnan().all()


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        ({"v": 0.1}, "no observable 'v'"),
        ({"leveel": 0.1}, "did you mean 'level'"),
        ({"counts": 0.1}, "'counts' is int64, which is kept exactly"),
        ({"u": 0.0}, "'u' must be positive, got 0.0; to keep it exactly, leave it out"),
        ({"u": -1}, "must be positive"),
        ({"u": math.nan}, "must be positive"),
        ({"u": math.inf}, "must be positive"),
    ],
)
def test_tolerances_that_make_no_sense_are_refused(store, tmp_path, tolerance, message):
    with pytest.raises(ValueError, match=message):
        write_archive(store, tmp_path / "a", tolerance)
    assert not list(tmp_path.iterdir())


def test_what_is_no_tolerance_is_refused(store, tmp_path):
    for share in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="a share of the range lies between 0 and 1"):
            Relative(share)
    for given_as in ("1e-2", True, None):
        with pytest.raises(TypeError, match="a number in its units or Relative"):
            write_archive(store, tmp_path / "a", {"u": given_as})


def test_a_store_that_is_not_finished_is_refused(tmp_path):
    simulator = Everything()
    made = Store.create(tmp_path / "s", simulator, seed=0, block=2, rows=6)
    with pytest.raises(ValueError, match="lacks 3 of 3 blocks"):
        write_archive(made, tmp_path / "a", {})


@pytest.mark.slow
def test_damage_is_told_wherever_it_is(written, tmp_path):
    data, path = written.path.read_bytes(), tmp_path / "damaged"
    for place in {0, 7, 8, len(data) // 3, len(data) - 1, len(data) - 9, *range(20, len(data), len(data) // 60)}:
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(ValueError, match=f"{path}.*restore it"):
            Archive(path).read()
    for length in (0, 5, 8, 20, len(data) // 2, len(data) - 16, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=f"{path} cannot be read as an archive"):
            Archive(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ValueError, match="cannot be read as an archive"):
        Archive(path)
    with pytest.raises(FileNotFoundError, match="no archive of simulations"):
        Archive(tmp_path / "none")


def test_only_the_damaged_block_is_lost(written, tmp_path):
    data, path = bytearray(written.path.read_bytes()), tmp_path / "damaged"
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="rows from 0 on is not what was written"):
        Archive(path).read(slice(0, 3))
    assert equal(Archive(path).read(slice(10, 20)), written.read(slice(10, 20)))


def test_a_newer_format_is_not_read(written, tmp_path):
    data = written.path.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    told = json.loads(zlib.decompress(data[-16 - length : -16]))
    index = zlib.compress(json.dumps(sealed({**told, "schema": 2})).encode())
    (tmp_path / "new").write_bytes(data[: -16 - length] + index + len(index).to_bytes(8, "little") + data[-8:])
    with pytest.raises(ValueError, match="it has format 2, this version of sciinf reads 1"):
        Archive(tmp_path / "new")


@pytest.mark.parametrize("fault", ["errors are not fed back", "the step is too long"])
def test_a_fault_of_ours_leaves_no_file(store, tmp_path, monkeypatch, fault):
    path = tmp_path / "a"
    before = digest(write_archive(store, path, TOLERANCE).path)
    if fault == "errors are not fed back":
        right = bounded._Telling.bins

        def wrong(self, where, base, features, marks):
            n = right(self, where, base, features, marks)[1]
            return self.values[where] - (2 * self.bound + 1) * n, n

        monkeypatch.setattr(bounded._Telling, "bins", wrong)
    else:
        monkeypatch.setattr(module, "stepped", longer)
    with pytest.raises(RuntimeError, match="a fault of sciinf"):
        write_archive(store, path, TOLERANCE)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert digest(path) == before


def longer(*told):
    kept = stepped(*told)
    return replace(kept, step=1.05 * kept.step)


# --- and then -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_surrogate_learns_as_much_from_an_archive(tmp_path):
    equation = Decay()
    made = simulate(equation, tmp_path / "s", 300, progress=False)
    archive = write_archive(made, tmp_path / "a", {"u": Relative(1e-3), "initial": Relative(1e-3)})
    again = archived(archive.path, out=tmp_path / "again")
    assert archive.size < 0.25 * sum(file.stat().st_size for file in (made.path / "shards").glob("*/*.h5"))
    theta = equation.prior.sample(60, generator=torch.Generator().manual_seed(1))
    x = equation(theta, generator=torch.Generator().manual_seed(2))
    errors = []
    for rows in (made, again):
        network = Fourier(12, 6, layers=2, hidden=32)
        operator, recipe = Operator(equation.prior, equation.observables, network), Recipe(epochs=10, batch=25)
        fit = train(operator, rows, tmp_path / f"fit {len(errors)}", recipe=recipe)
        errors.append(float((fit.surrogate.predict(theta, x).detach() - x["u"]).square().mean().sqrt()))
    assert errors[1] < 1.05 * errors[0]


def test_the_shelf_has_them():
    assert wrappers.write_archive is write_archive
    assert wrappers.Relative(0.5).share == 0.5
