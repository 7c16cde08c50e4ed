"""Summary networks from data to features, one network per kind of observable, and the standardisation of data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.networks.summaries.exchangeable import DeepSet as DeepSet
    from sciinf.networks.summaries.image import CNN as CNN
    from sciinf.networks.summaries.series import Conv1d as Conv1d, Transformer as Transformer
    from sciinf.networks.summaries.spectrum import Spectrum as Spectrum
    from sciinf.networks.summaries.vector import MLP as MLP

__getattr__, __dir__ = offered(__name__, __file__)
