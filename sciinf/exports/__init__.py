"""Answers out, to the tools each field already uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.exports.answers_table import write_answers as write_answers
    from sciinf.exports.arviz_layout import to_datatree as to_datatree, write_netcdf as write_netcdf
    from sciinf.exports.astropy_table import to_table as to_table, write_table as write_table
    from sciinf.exports.bilby_json import write_bilby as write_bilby
    from sciinf.exports.getdist_text import write_getdist as write_getdist
    from sciinf.exports.plain import read_draws as read_draws, write_draws as write_draws
    from sciinf.exports.sbi_posterior import to_sbi as to_sbi

__getattr__, __dir__ = offered(__name__, __file__)
