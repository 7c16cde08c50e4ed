"""Files with the draws of an answer, for download: HDF5, CSV, ECSV and netCDF by `exports`, Arrow by pyarrow."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from sciinf.core import Draws
from sciinf.core.containers import absent_in, columns_of
from sciinf.interfaces.exports.plain import write_draws
from sciinf.interfaces.serve.models import Model
from sciinf.interfaces.serve.replies import check_same
from sciinf.interfaces.serve.wire import answer_in, unpack

KINDS: Mapping[str, str] = {
    "h5": "application/x-hdf5",
    "csv": "text/csv; charset=utf-8",
    "ecsv": "text/plain; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.file",
    "nc": "application/x-netcdf",
}
"""Ending of a file -> media type."""


def draws_file(message: bytes, kind: str, model: Model) -> bytes:
    """Content of a file with the draws of an answer.

    Args:
        message: The answer, as `answering.answered` returns it.
        kind: Ending of the file's name, one of `KINDS`.
        model: The model that answered.

    Raises:
        ImportError: If pyarrow is not installed, for "arrow".
        NotReady: If the answer is of another network, calibration or simulator than the model's.
    """
    head, arrays = unpack(message)
    check_same(head, model)
    answer = answer_in(head, arrays, model.calibration_in(head["where"]))
    if kind == "arrow":
        return _arrow(answer.draws)
    with tempfile.TemporaryDirectory(prefix="sciinf-") as folder:
        return write_draws(answer, Path(folder) / f"draws.{kind}").read_bytes()


def _arrow(draws: Draws) -> bytes:
    """Content of a file in Arrow's IPC format: a column for each parameter, with its unit, and `log_weight`.

    Labels are text. A null value means that the parameter does not exist in that draw.
    """
    import pyarrow

    columns = {**columns_of(draws), "log_weight": draws.log_weight.numpy()}
    fields, units, arrays = [], dict(zip(draws.names, draws.units, strict=True)), []
    for name, values in columns.items():
        about = {"unit": units.get(name, "")}
        absent = absent_in(values) if name in units and draws.exists(name) < 1 else None
        arrays.append(pyarrow.array(values, mask=absent))
        fields.append(pyarrow.field(name, arrays[-1].type, metadata=about))
    schema = pyarrow.schema(fields)
    table = pyarrow.table(arrays, schema=schema)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
