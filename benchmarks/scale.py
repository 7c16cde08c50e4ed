"""Campaigns that outgrow one machine: kills, cuts and full disks, and what each part costs.

    python benchmarks/scale.py                       all parts
    python benchmarks/scale.py --parts store         some
    python benchmarks/scale.py --quick               shorter; checks are wider

"engines": what two workers gain where rows take 10 ms, and what rows that cost nothing cost, beside the disk's fsync.
"dask": a Dask cluster whose workers are killed every few seconds and whose scheduler is cut off for 20 s.
"killed": workers (`sciinf work`) and `sciinf simulate` on one store, killed at 20 random moments.
"slurm": an array of SLURM jobs on two nodes that this machine plays: cancelled, killed, at their walltime; left out
where SLURM is not installed.
"infer": `sciinf infer` by one process, worker processes, a Dask cluster and SLURM jobs: all its stores are the same.
"store": a million blocks that are made up: seconds to open, to look again, to say what is missing, as files and in
packs; then rows a second from files and from packs.
"objects": stores on an S3 service that is refused, cut and killed; rates beside the local disk.
"training": several processes against one, and stores larger than the memory.
"follow": training that begins before the campaign ends, beside training after the fact.
"surveys": a million questions, killed ten times; memory; rows per second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import in_parts
from scale_engines import dask, engines
from scale_follow import follow
from scale_infer import infer
from scale_objects import objects
from scale_slurm import killed, slurm
from scale_store import store
from scale_surveys import surveys
from scale_training import training

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {
    "engines": engines,
    "dask": dask,
    "killed": killed,
    "slurm": slurm,
    "infer": infer,
    "store": store,
    "objects": objects,
    "training": training,
    "follow": follow,
    "surveys": surveys,
}


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


if __name__ == "__main__":
    main()
