"""Results of simulators in the form that is stored: dtypes, a status for every row, and a reason where it failed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf.campaigns.storage.outcome import failed_outcome, join, normalise, status_of
from sciinf.core import Observable, Outcome, Status


def test_what_normalising_keeps_and_casts():
    specs = {"f": Observable((2,)), "b": Observable((), dtype="bool"), "n": Observable((), dtype="int64")}
    given = {
        "f": np.array([[1.0, 2.0], [1e300, 0.0], [3.0, 4.0]]),
        "b": torch.tensor([1.0, 0.0, 1.0]),
        "n": torch.tensor([1.0, 2.0, float("nan")]),
    }
    out = normalise(given, specs, 3, where="here")
    assert [v.dtype for v in out.x.values()] == [torch.float32, torch.bool, torch.int64]
    assert out.status is not None
    assert out.status.tolist() == [0, 1, 1]  # 1e300 is not finite in float32
    assert out.messages == {1: "NaN or infinite values in 'f'", 2: "NaN or infinite values in 'n'"}
    assert out.x["n"].tolist() == [1, 2, 0] or out.x["n"].tolist() == [1, 0, 0]
    again = normalise(out, specs, 3, where="here")
    assert torch.equal(again.status, out.status)
    assert again.messages == out.messages
    own = normalise(Outcome(given, torch.tensor([3, 0, 0], dtype=torch.uint8)), specs, 3, where="here")
    assert own.status is not None
    assert own.status.tolist() == [3, 1, 1]
    assert own.messages[0] == "timed_out, and the simulator gave no reason"
    single = normalise(torch.ones(3, 2), {"f": specs["f"]}, 3, where="here")
    assert torch.equal(single.x["f"], torch.ones(3, 2))


def test_status_of_rows_and_of_parts_joined():
    specs = {"f": Observable((2,))}
    sound, failed = Outcome({"f": torch.ones(2, 2)}), failed_outcome(specs, 1, Status.TIMED_OUT, "late")
    assert status_of(sound).tolist() == [Status.OK, Status.OK]
    both = join([sound, failed, sound])
    assert status_of(both).tolist() == [Status.OK, Status.OK, Status.TIMED_OUT, Status.OK, Status.OK]
    assert both.messages == {2: "late"}
    # planted faults: a status for another number of rows, and one that is none
    for wrong in (torch.zeros(3), torch.tensor([0, 9])):
        with pytest.raises(ValueError, match=r"expected \(2,\) and values of Status"):
            status_of(Outcome(sound.x, wrong))
