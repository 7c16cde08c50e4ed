"""Users' simulators in: a file for each kind. `sciinf.wrappers` offers them by name."""
