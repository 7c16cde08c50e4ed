"""What tests of foreign simulators share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def hasty_compiler() -> Iterator[None]:
    """Programs that jax compiles in half the time: each runs once or twice, on little data."""
    import jax

    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
