"""Building blocks of simulators: wrappers, differential equations, state-space models with filters, data symmetries.

`dynamics` has integrators, processes in time and grids. All of them are batched, and no row of a batch depends on
another. A model of hidden states is written once (`dynamics.state_space`), and the filters in `samplers` compute its
likelihood. `poses` are parameters that shift or rotate the data as a whole. `wrappers` make simulators of functions,
programs and models.
"""
