"""From data to features: standardisation, and one summary network per kind of observable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.summaries.exchangeable import DeepSet as DeepSet
    from sciinf.summaries.image import CNN as CNN
    from sciinf.summaries.series import Conv1d as Conv1d, Transformer as Transformer
    from sciinf.summaries.spectrum import Spectrum as Spectrum
    from sciinf.summaries.vector import MLP as MLP

__getattr__, __dir__ = offered(__name__, __file__)
