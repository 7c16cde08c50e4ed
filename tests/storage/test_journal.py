"""Journals: torn lines are normal, changed ones are named, and in both cases the block's file is judged by itself."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator
from sciinf.core.files import SEAL
from sciinf.diagnostics.checking import check_store


class Plain(Simulator):
    name = "plain"
    prior = Prior(rate=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}

    def __call__(self, theta, *, generator):
        raise AssertionError("the store never simulates")


def fill(path):
    """Five blocks of ten rows, each with a line in the one journal."""
    store = Store.create(path, Plain(), seed=3, block=10, rows=50)
    for index in range(5):
        generator = torch.Generator().manual_seed(index)
        theta = Plain.prior.sample(10, generator=generator)
        x = {"v": torch.randn(10, 3, generator=generator)}
        store.commit(index, theta, Outcome(x, torch.zeros(10, dtype=torch.uint8)), seconds=0.5)
    return store


def journal_of(path):
    return next((path / "journal").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("old", "new"), [('"rows": 10', '"rows": 11'), ('"ok"', '"raised"'), ('"seconds": ', '"seconds": 9'), ("{", "[")]
)
def test_a_changed_journal_line_is_named_and_its_block_judged_by_itself(tmp_path, old, new):
    digest, counts = fill(tmp_path).digest, Store(tmp_path).counts
    journal = journal_of(tmp_path)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:2], lines[2].replace(old, new, 1), *lines[3:]]))
    with pytest.warns(UserWarning, match=rf"line 3 of .*{journal.name} is damaged and passed over.*--repair SIM\.py"):
        found = Store(tmp_path)
    assert (found.digest, found.counts, found.missing()) == (digest, counts, [])
    report = check_store(found)
    assert not report.ok
    assert report.lines()[-1] == "1 lines of journals are damaged"
    assert f"line 3 of {journal}" in report.lines()[-2]
    found.journals.mend()
    assert journal.read_text().splitlines(keepends=True) == [*lines[:2], *lines[3:]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_store(Store(tmp_path)).ok


def test_wherever_a_line_is_torn_nothing_is_said(tmp_path):
    digest = fill(tmp_path).digest
    journal = journal_of(tmp_path)
    whole = journal.read_bytes()
    last = whole[:-1].rfind(b"\n") + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cut in range(last, len(whole), 7):
            journal.write_bytes(whole[:cut] + b"\n")
            assert Store(tmp_path).digest == digest
        journal.write_bytes(whole[:last] + bytes(300))  # what a loss of power leaves
        assert Store(tmp_path).digest == digest


def test_journals_and_descriptions_of_older_versions_are_read_and_said_to_be_unchecked(tmp_path):
    digest = fill(tmp_path).digest
    for file in (tmp_path / "store.json", journal_of(tmp_path)):
        file.write_text(re.sub(rf',\s*"{SEAL}": "\w+"', "", file.read_text()))
    with pytest.warns(UserWarning, match="carries? no hash") as told:
        assert Store(tmp_path).digest == digest
    assert {"store.json" in str(w.message) for w in told} == {True, False}


def test_a_changed_digit_of_the_description_is_refused(tmp_path):
    fill(tmp_path)
    file = tmp_path / "store.json"
    file.write_text(file.read_text().replace('"rows": 50', '"rows": 40'))
    with pytest.raises(ValueError, match=r"store\.json is damaged, or was edited by hand"):
        Store(tmp_path)
