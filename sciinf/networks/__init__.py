"""Networks that know nothing of inference: flows, summaries, diffusions, C kernels.

The kernels are C that the machine's own compiler makes once. Operations of torch stand beside each and must agree. Rows
go through them in lanes, which cores share, to the same bits.
"""
