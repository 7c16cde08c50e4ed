"""Networks that know nothing of inference: flows, summaries, diffusions, C kernels.

The C kernels are compiled once on each machine, by the compiler of that machine. Each kernel has an equivalent made of
torch operations, and must agree with it. Kernels divide the rows of a batch into lanes, which several cores share. The
number of cores does not change any bit of the result.
"""
