"""Answers out, to the tools each field already uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sciinf.exports.answers_table import write_answers
from sciinf.exports.arviz_layout import to_datatree, write_netcdf
from sciinf.exports.astropy_table import to_table, write_table
from sciinf.exports.bilby_json import write_bilby
from sciinf.exports.getdist_text import write_getdist
from sciinf.exports.plain import read_draws, write_draws

if TYPE_CHECKING:
    from sciinf.exports.sbi_posterior import to_sbi

__all__ = [
    "read_draws",
    "to_datatree",
    "to_sbi",
    "to_table",
    "write_answers",
    "write_bilby",
    "write_draws",
    "write_getdist",
    "write_netcdf",
    "write_table",
]


def __getattr__(name: str) -> Any:
    if name == "to_sbi":  # its module imports sbi, which takes seconds
        from sciinf.exports.sbi_posterior import to_sbi

        return to_sbi
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
