"""Networks that know nothing of inference: flows, summary networks, diffusions, and compiled kernels for CPUs."""
