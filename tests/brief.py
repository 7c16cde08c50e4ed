"""Short trainings: for tests of what is said and kept, not of how right it is. They do not see the difference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sciinf.training import recipe


@contextmanager
def briefly_trained(part: int = 3) -> Iterator[None]:
    """Trainings of the default recipe take one part of their steps; around a function as `@briefly_trained()`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_STEPS", {learns: steps // part for learns, steps in recipe._STEPS.items()})
        yield
