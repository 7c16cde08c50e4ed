"""Posteriors: how draws are made from a learned density, one way per file; and rounds around one observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.posteriors.refined import load_refined as load_refined
    from sciinf.posteriors.sequential import infer_sequentially as infer_sequentially
    from sciinf.posteriors.sequential import load_sequential as load_sequential

__getattr__, __dir__ = offered(__name__, __file__)
