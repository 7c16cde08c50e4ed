"""From data to features: standardisation, and one summary network per kind of observable."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciinf.summaries.exchangeable import DeepSet
    from sciinf.summaries.image import CNN
    from sciinf.summaries.series import Conv1d, Transformer
    from sciinf.summaries.vector import MLP

__all__ = [
    "CNN",
    "MLP",
    "Conv1d",
    "DeepSet",
    "Transformer",
]

_MODULES = {
    "CNN": "image",
    "Conv1d": "series",
    "DeepSet": "exchangeable",
    "MLP": "vector",
    "Transformer": "series",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
