"""Wrappers that make simulators of users' functions, programs and models. `sciinf.wrappers` offers them by name."""
