"""Simulation campaigns: blocks of simulations, workers, clusters, and the store on disk.

A campaign fills a store with blocks of rows. Each block is simulated from a seed of its own, and is written whole or
not at all (`storage`). Existing simulations, in tables and in files of fields, can also become a store.

The three ways to run blocks learn differently that a worker has ended. So each of them records in its own way which
block a worker was running:

- `Workers`: the parent process learns at once that a worker process has ended. The pool knows which block the worker
  had. A worker that exited with status 0 is found by an empty file, named with its process number, in a folder of this
  machine. The file is not in the store, because a store on s3:// has no shared disk.
- `Cluster`: the scheduler learns that a worker has ended, but not whether the block had begun. A file beside the store
  records that the block has begun, and only one worker can create this file. The file also shows that the worker sees
  the store's folder.
- `work`: no other process learns that a worker has ended. A file beside the store is touched regularly. Other workers
  conclude from its age, one minute, that its worker has ended.

A single way for all three would need a shared disk, a minute of waiting, or blame for blocks that had only waited.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.campaigns.cluster import Cluster as Cluster
    from sciinf.campaigns.simulation import repair as repair, simulate as simulate
    from sciinf.campaigns.slurm_array import SlurmArray as SlurmArray
    from sciinf.campaigns.store import Store as Store
    from sciinf.campaigns.workers import Here as Here, Workers as Workers

__getattr__, __dir__ = offered(__name__, __file__)
