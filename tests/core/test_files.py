"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import resource
import warnings

import pytest

from sciinf.core.files import SEAL, parse_json, read_json, versions, write_bytes, write_json, write_through


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


@pytest.mark.parametrize("write", [write_bytes, lambda path, data: write_through(path, lambda t: t.write_bytes(data))])
def test_a_full_disk_names_the_file(tmp_path, write):
    path = tmp_path / "data.bin"
    write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # as if there were no more room
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write(path, b"new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
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
    content = json.loads(path.read_bytes())
    assert list(content)[-1] == SEAL
    assert {key: value for key, value in content.items() if key != SEAL} == expected


def kept(path):
    write_json(path, {"seed": 41, "mean": 1.25, "names": ["a", "b"], "nested": {"rows": 100}})
    return path.read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [("41", "42"), ("1.25", "1.26"), ('"b"', '"c"'), ("100", "1000"), ("rows", "row5"), ("}", ',"x":1}')],
)
def test_a_changed_digit_or_letter_is_refused_by_name(tmp_path, old, new):
    path = tmp_path / "answer.json"
    path.write_text(kept(path).replace(old, new, 1))
    with pytest.raises(ValueError, match=r"answer\.json is damaged, or was edited by hand: .* restore it, or make it"):
        read_json(path)


def test_the_hash_is_what_the_page_says(tmp_path):
    data = json.loads(kept(tmp_path / "a.json"))
    said = data.pop(SEAL)
    assert said == hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def test_layout_and_order_are_immaterial_and_a_rewritten_file_has_the_hash_of_what_is_new(tmp_path):
    path = tmp_path / "a.json"
    data = json.loads(kept(path))
    path.write_text(json.dumps(dict(reversed(data.items()))))
    assert read_json(path) == {key: value for key, value in data.items() if key != SEAL}
    write_json(path, {**data, "seed": 42})
    assert read_json(path)["seed"] == 42


def test_a_file_without_a_hash_is_read_with_a_warning_that_names_it(tmp_path):
    path = tmp_path / "fit.json"
    data = json.loads(kept(path))
    del data[SEAL]
    path.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match=r"fit\.json carries no hash"):
        assert read_json(path) == data
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_json(path) == data


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
