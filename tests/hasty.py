"""Programs that jax compiles in half the time, and that run the slower for it: for what runs once or twice."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hastily_compiled() -> Iterator[None]:
    """Nothing changes where jax is not in use."""
    jax = sys.modules.get("jax")
    if jax is None:
        yield
        return
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
