"""Simulators in: wrappers, equations, state spaces with filters, symmetries of data.

`dynamics` has integrators, processes in time and grids, all batched: no row depends on another. A model of hidden
states is told once (`dynamics.state_space`), and filters of `samplers` give its likelihood. `poses` are parameters that
move data as a whole.
"""
