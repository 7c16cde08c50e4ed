"""Damaged and hostile observation files are read or refused in a sentence; the benchmark of that name has thousands."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from sciinf.core.loading import load_module

FUZZ = load_module(Path(__file__).parents[2] / "benchmarks" / "fuzzed_observations.py")
COUNT, SEED, H5 = 170, 7, 12


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What became of some files of every kind; few in HDF5, each of which takes a process of its own."""
    folder, seen, h5 = tmp_path_factory.mktemp("fuzz"), [], 0
    for index, (name, suffix, data) in enumerate(FUZZ.files(COUNT, SEED)):
        h5 += suffix == ".h5"
        if suffix == ".h5" and h5 > H5:
            continue
        path = folder / f"file{index}{suffix}"
        path.write_bytes(data)
        seen.append((name, suffix, *FUZZ.read(path)))
    return seen


@pytest.mark.slow
def test_no_damage_ends_in_a_raw_error(rows):
    assert [row for row in rows if row[2] not in ("read", "refused")] == []
    kinds = {".csv", ".ecsv", ".json", ".txt", ".pt", ".npz", ".h5", ".fits"}
    assert Counter(suffix for _, suffix, _, _ in rows).keys() == kinds
    results = Counter(result for _, _, result, _ in rows)
    assert results["read"] > 20, "damage beside the data does no harm"
    assert results["refused"] > 60


def test_wide_tables_are_refused_before_they_are_made(tmp_path):
    """Equal names took minutes, and a header that promises a billion columns took all memory."""
    for name, words in (("csv of equal names", "40,000 columns beside the data"),
                        ("fits of a billion columns", "999,999,999 columns")):  # fmt: skip
        suffix, data = FUZZ.hostile()[name]
        (path := tmp_path / f"wide{suffix}").write_bytes(data)
        started = time.process_time()
        result, error = FUZZ.read(path)
        assert (result, words in error) == ("refused", True), error
        assert time.process_time() - started < 2


@pytest.mark.slow
def test_files_made_to_do_harm_are_refused(rows):
    crafted = FUZZ.hostile()
    results = {name: (result, error) for name, _, result, error in rows if name in crafted}
    assert results.keys() == crafted.keys()
    assert {name for name, (result, _) in results.items() if result != "refused"} == set()
    for name, words in (
        ("h5 link", "is a link"),
        ("h5 soft link", "is a link"),
        ("h5 stored elsewhere", "lie in other files"),
        ("h5 of parts elsewhere", "lie in other files"),
        ("h5 of fill values", "has shape (300000000,)"),
        ("h5 in a huge chunk", "in chunks of (10000000,)"),
        ("npz bomb", "has shape (20000000,)"),
        ("npz that promises", "npz"),
        ("json nested", "nested too deeply"),
        ("csv twice", "more than once"),
        ("json twice", "more than once"),
        ("fits of a giant", "not a readable FITS file"),
    ):
        assert words in results[name][1], results[name]


def test_whole_files_are_read(tmp_path):
    """Else the fuzzer would show nothing."""
    for name, (suffix, data) in FUZZ.whole().items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(data)
        assert FUZZ.read(path) == ("read", ""), name
