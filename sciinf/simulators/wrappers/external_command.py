"""Simulators from external programs: the program runs once for each simulation.

    simulator = wrappers.command(
        ["./epidemic", "--rate", "{rate}", "--seed", "{seed}", "--out", "{output}"],
        prior, {"cases": (52,)}, output="cases.json", timeout=30.0, processes=4,
    )

Each run has a temporary folder of its own, which is removed after the run. Placeholders may stand in the arguments, the
`template` of an input file, and the environment. They are the name of each parameter, `{seed}` (an integer in
1..2^31 - 2, one per row), `{input}` (path of the file made from the template), `{output}` and `{folder}`. A number is
written as the shortest decimal that reads back as the same number in theta's precision, or in a given format such as
`{rate:.8e}`.

A program has failed if it exits with a status other than 0, or writes results that cannot be read: Status.RAISED, with
the reason. A program that a signal ends (a crash, the out-of-memory killer) is run again with the same seed, at most
`tries` times in total. A program that takes longer than `timeout` seconds is killed with all its child processes:
Status.TIMED_OUT. If `processes` > 1, that many programs run at once, and a thread waits for each. Therefore nothing
needs to be pickled, and the simulator works inside worker processes, which may not start further worker processes.

The program, the template and every file that an argument names belong to the simulator. If one of these files changes,
the simulator does not reuse earlier simulations. Installed files (/usr, /opt, Python's own folders) are excluded from
this rule.

In arguments and input files `{name}` stands for a value, `{name:.8e}` for a number in a format of Python's `format`,
and `{{name}}` for the text `{name}` itself. Other braces, as in JSON or C, are left unchanged.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.simulators.wrappers.contained_process import Containment, Ended
from sciinf.simulators.wrappers.named_function import (
    LOST,
    Specification,
    check_result,
    draw_seed,
    specify,
    suggest,
    tensors_of,
)
from sciinf.simulators.wrappers.row_arguments import check_plain

_NAME = r"([A-Za-z_]\w*)(?::([^{}\n]*))?"
_PLACEHOLDER = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<field>{_NAME})\}}")
_SEPARATOR = re.compile(r"[\s,;]+")


def names_in(text: str, known: Sequence[str], numbers: Sequence[str], *, where: str) -> set[str]:
    """Names of all placeholders in a text.

    Args:
        text: Text with placeholders.
        known: Names that have a value.
        numbers: The known names that may have a format.
        where: Name of the text in messages.

    Raises:
        ValueError: If a placeholder is unknown, or its format is not valid for numbers.
    """
    found = set()
    for match in _PLACEHOLDER.finditer(text):
        if match["literal"] is not None:
            continue
        name, _, form = match["field"].partition(":")
        if name not in known:
            raise ValueError(
                f"{where} has the placeholder {{{match['field']}}}{suggest(name, known)}; known are {sorted(known)}. "
                f"To have it as text, double its braces: {{{{{match['field']}}}}}"
            )
        if form and name not in numbers:
            raise ValueError(f"{where} has the placeholder {{{match['field']}}}; only {sorted(numbers)} take a format")
        try:
            format(1.0, form)
        except ValueError as error:
            raise ValueError(f"{where} has the placeholder {{{match['field']}}}: {error}") from error
        found.add(name)
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced by values. Numbers in `values` are decimal texts."""

    def one(match: re.Match[str]) -> str:
        if match["literal"] is not None:
            return "{" + match["literal"] + "}"
        name, _, form = match["field"].partition(":")
        return format(float(values[name]), form) if form else values[name]

    return _PLACEHOLDER.sub(one, text)


def decimal(value: np.floating) -> str:
    """Shortest decimal text that reads back as the same number in its precision: float32 0.1 is "0.1"."""
    return str(value)


_RESERVED = ("seed", "input", "output", "folder")
_INSTALLED = [Path(p).resolve() for p in ("/usr", "/bin", "/opt", sys.prefix, sys.base_prefix, sys.exec_prefix)]


def command(
    argv: Sequence[str | os.PathLike[str]],
    prior: Prior,
    observables: Mapping[str, Specification],
    *,
    template: str | Path | None = None,
    output: str | None = None,
    parse: Callable[[Path, str], Any] | None = None,
    timeout: float = 60.0,
    tries: int = 3,
    name: str | None = None,
    processes: int = 1,
    block: int = 64,
    environment: Mapping[str, str] | None = None,
    observe: Callable[..., Any] | None = None,
) -> CommandSimulator:
    """Make a simulator of an external program.

    Args:
        argv: The program and its arguments, with placeholders. A program with a slash in its name is found relative to
            the current folder, others on the PATH. The program runs in a folder of its own, so name further files (a
            script, a grid) by absolute path, such as `Path(__file__).parent / "model.py"`.
        prior: Prior of the parameters, with their names, distributions and units.
        observables: Observable name -> `Observable`, or its shape, or (shape, unit).
        template: Text of an input file with placeholders, or the `Path` of such a file. The input file gets the name of
            the template file.
        output: Name of the file that the program writes in the run's folder. By default, standard output is read.
        parse: Function from the run's folder and its standard output to the results, observable name -> array. By
            default, results are read as JSON, `.npz` or numbers (`read_results`). With processes > 1, threads call it.
        timeout: Longest duration of one run, in seconds.
        tries: Number of times that a row is run if a signal ends the program each time.
        name: Name of the simulator; by default the program's name.
        processes: Number of programs that run at once.
        block: Number of rows per block of a store.
        environment: Environment variables in addition to those of this process.
        observe: Function from paths of data files to the observation, observable name -> array. By default, columns
            named like the observables are read.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If the program does not exist, a placeholder is unknown, a parameter is not passed to the program,
            or the prior has parameters that are not numbers or do not always exist.

    Examples:
        >>> from torch import distributions as td
        >>> prior = Prior(rate=(td.Uniform(0.0, 1.0), "1/h"))
        >>> echo = command(["echo", "{rate}"], prior, {"x": ()})
        >>> echo(torch.tensor([[0.25]]), generator=torch.Generator()).x["x"]
        tensor([0.2500])
    """
    if isinstance(argv, str) or not argv:
        raise TypeError(f"argv must be a list of strings, the program first, got {argv!r}; split it: ['prog', '{{x}}']")
    if output is not None and Path(output).name != output:
        raise ValueError(f"output must be the name of a file in the run's own folder, got {output!r}")
    if not timeout > 0 or tries < 1 or processes < 1:
        raise ValueError(f"timeout, tries and processes must be positive, got {timeout}, {tries} and {processes}")
    check_plain(prior, "wrappers.command")
    program = _find(os.fspath(argv[0]), {**os.environ, **(environment or {})}.get("PATH"))
    text = template.read_text() if isinstance(template, Path) else template
    parts = {f"argv[{i}]": os.fspath(part) for i, part in enumerate(argv) if i > 0}
    parts |= {f"the environment variable {key!r}": value for key, value in (environment or {}).items()}
    specified = specify(observables)
    _check_placeholders(prior, {**parts, **({} if text is None else {"the template": text})}, text, output)
    return CommandSimulator(
        Program(
            argv=(program, *(os.fspath(part) for part in argv[1:])),
            parameters=prior.names,
            observables=specified,
            template=None if text is None else (template.name if isinstance(template, Path) else "input.txt", text),
            output=output,
            parse=parse,
            timeout=timeout,
            tries=tries,
            environment=dict(environment or {}),
            files=_files(program, argv[1:], template),
        ),
        prior,
        specified,
        name=name or Path(program).stem,
        processes=processes,
        block=block,
        observe=observe,
    )


@final
class CommandSimulator(Simulator):
    """The simulator that `command` makes. It can be pickled if `parse` and `observe` can be pickled."""

    by_row = True

    def __init__(
        self,
        program: Program,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        name: str,
        processes: int,
        block: int,
        observe: Callable[..., Any] | None,
    ) -> None:
        self.program, self.prior, self.observables, self.name = program, prior, observables, name
        self.processes, self.block, self.reader, self.files = processes, block, observe, program.files

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        """Simulate a batch, one run of the program for each row.

        The seed of row i depends only on one draw of the generator and on i, not on the other rows or their number.

        Raises:
            ValueError: If theta has a wrong shape, or the program cannot be started any more.
        """
        if theta.ndim != 2 or theta.shape[1] != len(self.prior):
            raise ValueError(f"theta has shape {tuple(theta.shape)}, expected (batch, {len(self.prior)})")
        base, values, n = draw_seed(generator), theta.detach().cpu().numpy(), len(theta)
        arrays = {k: np.zeros((n, *spec.shape), dtype=spec.dtype) for k, spec in self.observables.items()}
        status, messages = np.zeros(n, dtype=np.uint8), dict[int, str]()

        def one(row: int) -> tuple[Status, str, dict[str, np.ndarray]]:
            return self.program.row(values[row], _row_seed(base, row), containment)

        with Containment() as containment, ThreadPoolExecutor(self.processes) as pool:
            try:
                done = map(one, range(n)) if self.processes == 1 else pool.map(one, range(n))
                for row, (status[row], message, result) in enumerate(done):
                    if message:
                        messages[row] = message
                    for k, value in result.items():
                        arrays[k][row] = value
            except BaseException:
                containment.kill()
                pool.shutdown(cancel_futures=True)
                raise
        return Outcome(tensors_of(arrays, theta.device), torch.from_numpy(status).to(theta.device), messages)


@final
@dataclass(frozen=True)
class Program:
    """An external program with all settings of its runs.

    Args:
        argv: Path of the program, and its arguments with placeholders.
        parameters: Names of the parameters, in theta's order.
        observables: Observables that the results hold.
        template: Name and text of the input file, or None.
        output: Name of the file that the program writes, or None for standard output.
        parse: Function that reads the results instead of `read_results`, or None.
        timeout: Longest duration of one run, in seconds.
        tries: Number of times that a row is run if a signal ends the program each time.
        environment: Environment variables with placeholders, in addition to those of this process.
        files: Files on which the results depend: the program, files among its arguments, and the template file.
            Installed files are left out.
    """

    argv: tuple[str, ...]
    parameters: tuple[str, ...]
    observables: Mapping[str, Observable]
    template: tuple[str, str] | None
    output: str | None
    parse: Callable[[Path, str], Any] | None
    timeout: float
    tries: int
    environment: Mapping[str, str]
    files: tuple[Path, ...]

    def row(self, theta: np.ndarray, seed: int, containment: Containment) -> tuple[Status, str, dict[str, np.ndarray]]:
        """Simulate one row: its status, the reason if the row failed, and its results if there are any."""
        ended = Ended(0, False)
        for _ in range(self.tries):
            with tempfile.TemporaryDirectory(prefix="sciinf_", ignore_cleanup_errors=True) as name:
                folder = Path(name) / "run"
                folder.mkdir()
                ended = self._run(theta, seed, folder, containment)
                if ended.timed_out:
                    return Status.TIMED_OUT, f"killed after {self.timeout:g} s{_tail(folder)}", {}
                if ended.exit > 0:
                    return Status.RAISED, f"exit status {ended.exit}{_tail(folder)}", {}
                if ended.exit == 0:
                    return self._read(folder)
                tail = _tail(folder)
        return Status.RAISED, f"ended by {ended.signal} in each of {self.tries} tries, then given up{tail}", {}

    def _run(self, theta: np.ndarray, seed: int, folder: Path, containment: Containment) -> Ended:
        values = {name: decimal(value) for name, value in zip(self.parameters, theta, strict=True)}
        values |= {"seed": str(seed), "folder": str(folder), "output": str(folder / (self.output or ""))}
        if self.template is not None:
            values["input"] = str(folder / self.template[0])
            (folder / self.template[0]).write_text(fill(self.template[1], values))
        try:
            return containment.run(
                [self.argv[0], *(fill(part, values) for part in self.argv[1:])],
                folder=folder,
                stdout=_stdout(folder),
                stderr=_stderr(folder),
                environment={**os.environ, **{k: fill(v, values) for k, v in self.environment.items()}},
                timeout=self.timeout,
            )
        except (FileNotFoundError, PermissionError, OSError) as error:
            raise ValueError(f"the program {self.argv[0]} cannot be started: {error}") from error

    def _read(self, folder: Path) -> tuple[Status, str, dict[str, np.ndarray]]:
        label = f"the program {Path(self.argv[0]).name!r}"
        try:
            if self.parse is not None:
                result = self.parse(folder, _stdout(folder).read_text(errors="replace"))
            elif self.output is not None:
                result = read_results(self.observables, folder / self.output, where=f"file {self.output!r}")
            else:
                result = read_results(self.observables, _stdout(folder), where="standard output")
            arrays, lost = check_result(self.observables, result, (), what=label)
        except Exception as error:
            return Status.RAISED, f"unreadable results: {type(error).__name__}: {error}{_tail(folder)}", {}
        if lost:
            return Status.NON_FINITE, LOST, arrays
        return Status.OK, "", arrays


def _check_placeholders(prior: Prior, parts: Mapping[str, str], template: str | None, output: str | None) -> None:
    if taken := [name for name in prior.names if name in _RESERVED]:
        raise ValueError(f"the parameter name {taken[0]!r} is a placeholder with a meaning of its own; rename it")
    known = [*prior.names, *_RESERVED]
    used: set[str] = set()
    for where, text in parts.items():
        used |= names_in(text, known, prior.names, where=where)
    if "input" in used and template is None:
        raise ValueError("{input} stands for the file made from `template`, which was not given")
    if "output" in used and output is None:
        raise ValueError("{output} stands for the file named by `output`, which was not given: output='result.json'")
    if unused := [name for name in prior.names if name not in used]:
        raise ValueError(
            f"the parameters {unused} reach the program nowhere; write {{{unused[0]}}} where it takes them, in argv, "
            "the template or the environment"
        )


def _files(program: str, arguments: Sequence[str | os.PathLike[str]], template: str | Path | None) -> tuple[Path, ...]:
    """Files on which the results of a program depend, without installed files (see `Program.files`)."""
    named = [Path(os.fspath(part)) for part in arguments if "{" not in os.fspath(part)]
    named += [template] if isinstance(template, Path) else []
    files = [Path(program), *(path for path in named if path.is_file())]
    return tuple(file for file in map(Path.resolve, files) if not any(file.is_relative_to(p) for p in _INSTALLED))


def _find(program: str, path: str | None) -> str:
    """Absolute path of a program, found on the PATH or relative to the current folder."""
    if re.search(r"[/\\]", program):
        program = os.path.abspath(program)
    found = shutil.which(program, path=path)
    if found is None:
        there = " is not executable" if os.path.isfile(program) else " was not found"
        raise ValueError(
            f"the program {program!r}{there}; install it, put its folder on the PATH, or give its absolute path as "
            "argv[0]"
        )
    return os.path.abspath(found)


def _row_seed(base: int, row: int) -> int:
    """Seed of a row, an integer in 1..2^31 - 2.

    Most programs accept seeds in this range. The seed 0 is excluded because it often means the clock.
    """
    word = int(np.random.SeedSequence(base, spawn_key=(row,)).generate_state(1, np.uint64)[0])
    return 1 + word % (2**31 - 2)


def _stdout(folder: Path) -> Path:
    return folder.parent / "stdout"


def _stderr(folder: Path) -> Path:
    return folder.parent / "stderr"


def _tail(folder: Path, length: int = 400) -> str:
    """End of a run's standard error, for messages, or of its standard output if standard error is empty."""
    for file in (_stderr(folder), _stdout(folder)):
        with open(file, "rb") as said:
            said.seek(max(0, os.path.getsize(file) - length))
            text = said.read().decode(errors="replace").strip()
        if text:
            return f": {text}"
    return ""


def read_results(observables: Mapping[str, Observable], source: Path, *, where: str) -> dict[str, Any]:
    """Read the results that a program wrote to a file, observable name -> array.

    `.npz` and `.json` files are read as such, and so is JSON in any other file. Any other file holds numbers, separated
    by blanks, commas or semicolons; `#` begins a comment. If the first line has names, the file is a table. An
    observable is the column of its name, or the columns `name_0`, `name_1`, ... Without names, the numbers are the
    observables one after the other, each in row-major order. Names that are not observables are ignored.

    Args:
        observables: Observables to be read.
        source: Path of the file.
        where: Name of the file in messages.

    Raises:
        ValueError: If the file is missing or empty, cannot be read, or lacks an observable.
    """
    if not source.is_file():
        raise ValueError(f"the program wrote no {where}")
    if source.suffix.lower() == ".npz":
        return _named(_npz(source, where), observables, where)
    try:
        text = source.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"the {where} is no text: {error}") from error
    if not text.strip():
        raise ValueError(f"the {where} is empty")
    if source.suffix.lower() == ".json" or text.lstrip()[0] in "{[":
        return _named(_json(text, where), observables, where)
    lines = [line for line in (line.split("#")[0].strip() for line in text.splitlines()) if line]
    rows = [[_number(token) for token in _SEPARATOR.split(line) if token] for line in lines]
    if len(rows) > 1 and None in rows[0] and all(None not in row for row in rows[1:]):
        header = [token.strip("\"'") for token in _SEPARATOR.split(lines[0]) if token]
        return _table(header, rows[1:], observables, where)
    if bad := [line for line, row in zip(lines, rows, strict=True) if None in row]:
        raise ValueError(f"the {where} has a line that is not all numbers: {bad[0][:80]!r}")
    return _in_order([value for row in rows for value in row if value is not None], observables, where)


def _npz(source: Path, where: str) -> dict[str, np.ndarray]:
    try:
        with np.load(source, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except Exception as error:  # zipfile, zlib and numpy raise different exceptions for broken files.
        raise ValueError(f"the {where} is no readable .npz of plain arrays: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"the {where} is no JSON: {error}") from error


def _named(data: Any, observables: Mapping[str, Observable], where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        if len(observables) != 1:
            raise ValueError(f"the {where} holds one array, expected an object with {sorted(observables)}")
        data = {next(iter(observables)): data}
    if missing := [name for name in observables if name not in data]:
        raise ValueError(f"the {where} has {sorted(map(str, data))}: missing {missing}")
    return {name: _array(name, data[name], where) for name in observables}


def _array(name: str, value: Any, where: str) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
        return array.astype(float) if array.dtype == object else array  # A JSON null becomes NaN.
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} in the {where} is no array of numbers: {error}") from error


def _table(
    header: list[str], rows: list[list[float | None]], observables: Mapping[str, Observable], where: str
) -> dict[str, Any]:
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"the {where} has rows of other lengths than its header {header}")
    values = np.array(rows, dtype=float).reshape(len(rows), len(header))
    out = {}
    for name, spec in observables.items():
        columns = [header.index(name)] if name in header else []
        for index in range(len(header) if not columns else 0):
            if f"{name}_{index}" in header:
                columns.append(header.index(f"{name}_{index}"))
        found = values[:, columns]
        if not columns or found.size != int(np.prod(spec.shape)):
            raise ValueError(
                f"the {where} has {len(rows)} rows of the columns {header}; {name!r} needs {spec.shape} numbers in a "
                f"column of its name or columns {name}_0, {name}_1, ..."
            )
        out[name] = found.reshape(spec.shape)
    return out


def _in_order(values: list[float], observables: Mapping[str, Observable], where: str) -> dict[str, Any]:
    sizes = [int(np.prod(spec.shape)) for spec in observables.values()]
    if len(values) != sum(sizes):
        shapes = ", ".join(f"{name!r} {spec.shape}" for name, spec in observables.items())
        raise ValueError(f"the {where} has {len(values)} numbers, expected {sum(sizes)} for {shapes}")
    parts = np.split(np.array(values), np.cumsum(sizes)[:-1])
    return {name: part.reshape(spec.shape) for (name, spec), part in zip(observables.items(), parts, strict=True)}


def _number(token: str) -> float | None:
    for text in (token, token.replace("D", "e").replace("d", "e")):  # Fortran writes exponents as in 1.0D-03.
        try:
            return float(text)
        except ValueError:
            continue
    return None
