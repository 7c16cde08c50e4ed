"""Short trainings: for tests of what is said and kept, not of how right it is. They do not see the difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sciinf.diffusion import likelihood
from sciinf.engine import recipe


@contextmanager
def briefly_trained(part: int = 3) -> Iterator[None]:
    """Trainings of the default recipe take a third of its steps; around a function as `@briefly_trained()`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_STEPS", {learns: steps // part for learns, steps in recipe._STEPS.items()})
        yield


@contextmanager
def coarse_densities() -> Iterator[None]:
    """Densities of diffusion models take a quarter of the steps: for tests of shapes, and of what equals what."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(likelihood.log_density.__kwdefaults__ or {}, "steps", 10)
        yield
