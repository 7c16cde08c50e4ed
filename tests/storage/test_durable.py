"""Temporary files of processes that are dead are swept away, and nobody else's."""

from __future__ import annotations

import os
import platform

from sciinf.storage.durable import sweep


def test_leftovers_of_the_dead_are_swept(tmp_path):
    dead = tmp_path.joinpath(f".00000001.h5.{platform.node()}.4194305.tmp")
    alive = tmp_path.joinpath(f".00000001.h5.{platform.node()}.{os.getpid()}.tmp")
    elsewhere = tmp_path.joinpath(".00000001.h5.another-host.4194305.tmp")
    for file in (dead, alive, elsewhere):
        file.touch()
    sweep(tmp_path)
    assert [f.exists() for f in (dead, alive, elsewhere)] == [False, True, True]
