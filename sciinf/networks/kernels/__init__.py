"""C kernels, compiled once per machine, for operations that would take torch hundreds of calls."""
