"""Exports of answers to the file formats and libraries that scientists of each field already use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.interfaces.exports.answers_table import write_answers as write_answers
    from sciinf.interfaces.exports.arviz_layout import to_datatree as to_datatree, write_netcdf as write_netcdf
    from sciinf.interfaces.exports.astropy_table import to_table as to_table, write_table as write_table
    from sciinf.interfaces.exports.bilby_json import write_bilby as write_bilby
    from sciinf.interfaces.exports.getdist_text import write_getdist as write_getdist
    from sciinf.interfaces.exports.plain import read_draws as read_draws, write_draws as write_draws
    from sciinf.interfaces.exports.sbi_posterior import to_sbi as to_sbi

__getattr__, __dir__ = offered(__name__, __file__)
