"""Simulations made and kept: blocks, workers, clusters, the store.

A campaign is a store that is being filled. Its blocks of rows are simulated from seeds of their own, and are written
whole or not at all (`storage`). Simulations that exist already, in tables and in files of fields, become a store as
well.

Three engines learn in three ways that a worker is gone, so each notes in its own way which block a worker had:

- `Workers`: the parent learns it from the process, at once. The pool knows the block. A worker that left with status 0
  has left an empty file of its number, in a folder of this machine, because a store on s3:// has no disk in common.
- `Cluster`: the scheduler learns it, and does not know whether the block had begun. A file beside the store, which only
  one worker can make, says so. It shows as well that the worker sees the store's folder.
- `work`: nobody learns it. A file beside the store is kept fresh; others know by its age, a minute, that it was left.

One way for all would need a disk in common, a minute of waiting, or blame for blocks that had only waited.
"""
