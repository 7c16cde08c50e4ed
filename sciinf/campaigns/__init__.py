"""Simulations made and kept: `simulate`, the store, and engines that run blocks here, in workers or on clusters.

A campaign is a store that is being filled. Its blocks of rows are simulated from seeds of their own (`block`), by
worker processes (`workers`), a Dask cluster (`cluster`), SLURM jobs (`slurm_array`) or workers without a scheduler
(`work`), and are written whole or not at all (`storage`). Simulations that exist already, in tables and in files of
fields, become a store as well.
"""
