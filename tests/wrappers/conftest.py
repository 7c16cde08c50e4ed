"""What tests of foreign simulators share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hasty import hastily_compiled


@pytest.fixture(scope="module")
def hasty_compiler() -> Iterator[None]:
    """Programs that jax compiles in half the time: each runs once or twice, on little data."""
    import jax  # noqa: F401 (in use from here on)

    with hastily_compiled():
        yield
