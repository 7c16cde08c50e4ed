"""Freed memory is kept: counted in page faults of a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages, of which a few hold everything
import torch
from sciinf.training.memory import retain_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [torch.zeros(2**19) for _ in range(6)]  # 2 MiB each
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "retain":
    retain_freed()
faults()
print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc whose threshold is moved")
def test_blocks_are_used_again_and_not_without_it():
    def faults(word):
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_PRELOAD"))}
        done = subprocess.run([sys.executable, "-c", SCRIPT, word], env=own, capture_output=True, text=True, check=True)
        return int(done.stdout)

    pages = 20 * 6 * 2**21 // 4096  # of all blocks together
    assert faults("retain") < 0.1 * pages
    assert faults("leave") > 0.5 * pages  # the planted fault
