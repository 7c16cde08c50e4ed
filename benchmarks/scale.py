"""Campaigns that outgrow one machine: kills, cuts and full disks, and what each part costs.

python benchmarks/scale.py                       all parts
python benchmarks/scale.py --parts engines       some
python benchmarks/scale.py --quick               shorter; checks are wider
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reporting import in_parts

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PARTS: dict[str, Callable[[Any, Path], Found]] = {}


def main() -> None:
    """Print the tables."""
    in_parts(str(__doc__), PARTS)


if __name__ == "__main__":
    main()
