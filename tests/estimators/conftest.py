"""Fixtures shared by the tests of estimators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from sciinf.networks.diffusion import likelihood


@pytest.fixture
def coarse_densities() -> Iterator[None]:
    """Densities of diffusion models take a quarter of the steps: for tests of shapes, and of what equals what."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cast("dict[str, int]", likelihood.log_density.__kwdefaults__), "steps", 10)
        yield
