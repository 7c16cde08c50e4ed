"""From data to features: standardisation, and one summary network per kind of observable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.summaries.exchangeable import DeepSet
    from sciinf.summaries.image import CNN
    from sciinf.summaries.series import Conv1d, Transformer
    from sciinf.summaries.spectrum import Spectrum
    from sciinf.summaries.vector import MLP

__all__ = [
    "CNN",
    "MLP",
    "Conv1d",
    "DeepSet",
    "Spectrum",
    "Transformer",
]

_MODULES = {
    "CNN": "image",
    "Conv1d": "series",
    "DeepSet": "exchangeable",
    "MLP": "vector",
    "Spectrum": "spectrum",
    "Transformer": "series",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
