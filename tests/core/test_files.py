"""Files are written whole or not at all."""

from __future__ import annotations

import json
import math
import os

import pytest

from sciinf.core.files import read_json, versions, write_bytes, write_json, write_through


def test_bytes_come_back(tmp_path):
    path = tmp_path / "data.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def fail_half_way(path):
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "data.bin"
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        write_through(path, fail_half_way)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_in_place_would_have_lost_the_old_file(tmp_path):
    """The planted fault: without the temporary file the same failure leaves half a file."""
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        fail_half_way(path)
    assert path.read_bytes() == b"half"


def test_a_full_disk_leaves_the_old_file(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this machine")
    path = tmp_path / "data.bin"
    write_bytes(path, b"old")

    def full(temporary):
        temporary.symlink_to("/dev/full")
        with open(temporary, "wb") as file:
            file.write(b"new")

    with pytest.raises(OSError, match="No space left"):
        write_through(path, full)
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "data.bin", b"")


def test_json_is_strict_and_keeps_every_digit(tmp_path):
    path = tmp_path / "data.json"
    write_json(path, {"a": 0.1 + 0.2, "b": [math.nan, math.inf, 1], "c": {"d": (-math.inf, None, True, "µ")}, 3: 1})
    expected = {"a": 0.1 + 0.2, "b": [None, None, 1], "c": {"d": [None, None, True, "µ"]}, "3": 1}
    assert read_json(path) == expected
    assert "NaN" not in path.read_text()
    assert json.loads(path.read_bytes()) == expected


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"{'a': 1}"])
def test_damaged_json_names_the_file(tmp_path, content):
    path = tmp_path / "answer.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"answer\.json is damaged"):
        read_json(path)


def test_versions_name_what_results_depend_on():
    found = versions()
    assert {"python", "sciinf", "torch", "numpy"} <= set(found)
    assert found["torch"][0].isdigit()
