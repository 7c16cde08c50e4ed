"""`query_all`: asks a posterior about any number of observations, and writes a folder of answers, block by block."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf.campaigns.storage.folder import Folder, LocalFolder
from sciinf.campaigns.storage.selection import row_bytes
from sciinf.campaigns.store import Store
from sciinf.core import Calibration, Level, Posterior
from sciinf.core.checks import check_whole
from sciinf.core.files import local_path, sweep
from sciinf.core.progress import Progress
from sciinf.diagnostics.failures import Reading
from sciinf.interfaces.question import judge_of
from sciinf.interfaces.surveys.answers import Answers, digest_of, load_answers
from sciinf.interfaces.surveys.block import Block, file_of, read_block, write_block
from sciinf.interfaces.surveys.description import NAME, STATUS, as_bytes, check_general, check_ours, described, taken_up
from sciinf.interfaces.surveys.drawing import RowAnswers, SurveyOptions
from sciinf.interfaces.surveys.population import population
from sciinf.interfaces.surveys.rows import Observations, observations_of
from sciinf.interfaces.surveys.verdicts import LEVELS
from sciinf.networks.kernels.lanes import cores_here, shared

_ROWS, _BYTES = 512, 32 * 2**20  # Approximate largest numbers of rows and of bytes in a block.
_SIGMA = (0.16, 0.5, 0.84)
_UNRELIABLE = 0.7


def query_all(
    posterior: Posterior,
    observations: Store | str | Path | Mapping[str, Any],
    out: str | Path | Folder,
    calibration: Calibration | None = None,
    *,
    level: float = 0.9,
    draws: int = 2_000,
    kept: int = 0,
    seed: int = 0,
    failures: Reading = "exclude",
    block: int | None = None,
    run: str | Path = "",
    progress: bool = True,
) -> Answers:
    """Ask for the parameters behind any number of observations, and write the answers into a folder.

    Each row has quantiles, mean and sd of each parameter, and probabilities of discrete parameters. Each row also has
    the result of `query`'s comparison of its data with the simulations (`trust`), and the findings about its answer.
    Rows unlike the simulations are marked as outside. Rows that failed, or are not finite, have no answer. A call that
    was stopped or killed is continued by the same call, and several processes may work on one folder. The memory used
    does not depend on the number of rows.

    Once all rows are answered, they are compared together with the prior (`interfaces.surveys.population`). A truth
    outside the prior may have data like those of a truth within, which no single row can show. A caution from this
    comparison does not by itself mean a fault.

    If a network makes draws by transforming noise, many rows are answered in one pass. Any other posterior (an
    ensemble, one that is weighted by a likelihood, chains) is asked row by row, as `query` asks it. Each row then takes
    as long as a call of `query`.

    Args:
        posterior: The posterior that answers, which must hold for every observation.
        observations: A store or its folder; a file with one row for each observation (`.h5`, `.npz`, `.fits`, ...); or
            name -> array (rows, *event). The theta of a store is written beside the answers as truth. A file of HDF5 is
            read as needed, any other file whole.
        out: Folder of the answers.
        calibration: Calibration of this posterior, as `calibrate` returns it.
        level: Credible level of the interval between the outer quantiles. Quantiles at 16, 50 and 84 % are also
            written.
        draws: Number of posterior draws behind each answer. With 2,000 draws, the standard error of the 5 % quantile of
            a normal distribution is .05 sd.
        kept: Number of these draws that are written for each row.
        seed: Seed of the survey. Row k has a seed of its own, which depends on `seed` and k alone.
        failures: Meaning of failed simulations, as in `query`.
        block: Number of rows in a block, rounded up to whole passes; chosen automatically if left out.
        run: Origin of the posterior, as a note for readers.
        progress: Whether to report progress on the standard error.

    Returns:
        The answers, as `load_answers` returns them.

    Raises:
        ValueError: If the observations do not fit the posterior, or are an unfinished store; if the folder holds other
            answers; if the calibration is of another fit; or if a number is outside its range.
        OSError: If the folder cannot be written; blocks that were written stay.
    """
    for name, value, least in (("draws", draws, 1), ("kept", kept, 0), ("seed", seed, 0), ("block", block or 1, 1)):
        check_whole(name, value, least)
    if not 0 < level < 1 or kept > draws or block == 0:
        raise ValueError(
            f"level is between 0 and 1, block at least 1 and kept at most draws, got level={level}, block={block}, "
            f"kept={kept}, draws={draws}"
        )
    judge = judge_of(posterior, calibration, failures)
    check_general(judge.posterior)
    with ExitStack() as stack:
        of = observations_of(observations, judge.posterior, stack)
        levels = tuple(sorted({round((1 - level) / 2, 9), *_SIGMA, round((1 + level) / 2, 9)}))
        wanted = SurveyOptions(levels, level, draws, kept, seed, failures)
        answering, folder = RowAnswers(judge, wanted), out if isinstance(out, Folder) else own_folder(out)
        try:
            about = taken_up(folder, described(answering, of, _block(wanted, judge.posterior, block), str(run)))
            _answer(folder, about, answering, of, progress=progress)
            if of.now() != of.digest:
                raise ValueError(
                    f"{of.name} changed while it was asked about, so answers in {folder.name} may be of the old or of "
                    "the new data: remove these answers, and ask again"
                )
            return _finished(folder, about, answering, of)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise OSError(
                error.errno,
                f"the answers in {folder.name} cannot be written: {error.strerror or error}. Blocks so far are safe; "
                "make room, or choose a folder that can be written, and the same command goes on where it was",
            ) from error


def own_folder(path: str | Path) -> LocalFolder:
    """Open a folder of the file system for answers; the folder may hold answers, but no other files.

    Raises:
        ValueError: If the folder holds other files, or the path is an address in an object store.
    """
    path = local_path(path)
    inside = {item.name for item in path.iterdir() if not item.name.startswith(".")} if path.is_dir() else set()
    ours = NAME in inside or any(path.glob("blocks/[0-9]*/[0-9]*.h5"))
    if inside - {"log.txt", "summary.png", "provenance.json"} and not ours:
        raise ValueError(
            f"{path} holds other files ({', '.join(sorted(inside)[:4])}); answers to many observations take a folder "
            "of their own"
        )
    path.mkdir(parents=True, exist_ok=True)
    for folder in (path, *path.glob("blocks/*/")):
        sweep(folder)
    return LocalFolder(path)


def _block(wanted: SurveyOptions, posterior: Posterior, asked: int | None) -> int:
    """Number of rows in a block: a whole number of passes, small enough for memory."""
    each = row_bytes(posterior.prior, posterior.observables) + 8 * wanted.kept * len(posterior.prior)
    rows = asked or max(1, min(_ROWS, _BYTES // each))
    return wanted.rows * -(-rows // wanted.rows)


def _answer(
    folder: Folder, about: Mapping[str, Any], answering: RowAnswers, of: Observations, *, progress: bool
) -> None:
    """Answer the missing blocks of a folder.

    Several processes begin at different blocks, and skip blocks that another process has written.
    """
    size, rows = about["block"], about["rows"]
    units = dict(zip(answering.posterior.prior.names, answering.posterior.prior.units, strict=True))
    lengths = [min(size, rows - start) for start in range(0, rows, size)]
    missing = [index for index in range(len(lengths)) if not _whole(folder, index, about["survey"])]
    done = rows - sum(lengths[index] for index in missing)
    first = secrets.randbelow(len(missing)) if missing else 0
    told = Progress(rows, done, shown=progress, task="answering", unit="observations")
    with torch.no_grad(), shared(cores_here()), told as bar:
        for index in missing[first:] + missing[:first]:
            failed = 0
            if not _whole(folder, index, about["survey"]):
                start = index * size
                found = answering.block(of.read(start, start + lengths[index]), start)
                check_ours(folder, about["survey"])
                folder.replace(file_of(index), write_block(found, index, about["survey"], units))
                failed = int((found.columns["status"] != 0).sum())
            bar.add(lengths[index], failed)


def _whole(folder: Folder, index: int, survey: str) -> bool:
    """Whether the folder has a block, and the block is undamaged."""
    try:
        read_block(folder.read(file_of(index)), index, survey, frozenset())
        return True
    except (FileNotFoundError, ValueError):
        return False


def _finished(folder: Folder, about: Mapping[str, Any], answering: RowAnswers, of: Observations) -> Answers:
    """Write counts, digest and the finding on all rows into `answers.json`, and return the complete answers."""
    check_ours(folder, about["survey"])
    answers = load_answers(folder)
    counts = _Counts(answers, answering.expected())
    digest = digest_of(counts.counted(answers.block(index) for index in range(answers.blocks)))
    with torch.no_grad(), shared(cores_here()):
        together = population(answers, answering, of, np.concatenate(counts.p_values), np.concatenate(counts.inside))
    found = {**counts.found(), "population": together.to_json(), "digest": digest}
    folder.replace(NAME, as_bytes({**about, "found": found}))
    return load_answers(folder)


class _Counts:
    """Counts of verdicts, and of true values below quantiles, summed up block by block."""

    def __init__(self, answers: Answers, expected: list[float]) -> None:
        self.answers, self.expected = answers, expected
        self.codes: dict[str, Counter[int]] = {name: Counter() for name in ("status", "trust", "checks")}
        size = len(answers.prior)
        self.below, self.known, self.unreliable = np.zeros((size, len(answers.levels))), np.zeros(size), 0
        self.p_values, self.inside = list[np.ndarray](), list[np.ndarray]()
        self.verdicts: Counter[str] = Counter()

    def counted(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield the same blocks, and count each block as it passes."""
        for block in blocks:
            columns = block.columns
            good = columns["status"] == 0
            self.codes["status"].update(columns["status"].tolist())
            self.codes["trust"].update(columns["trust"].tolist())
            self.codes["checks"].update(columns["checks"][good].tolist())
            self.verdicts.update(self.answers.judge.levels(columns)[good].tolist())
            self.p_values.append(columns["p_value"])
            self.inside.append(good & (columns["trust"] != LEVELS.index("alarm")))
            self.unreliable += int((columns["pareto_k"] > _UNRELIABLE).sum())
            if "truth" in columns:
                truth, quantiles = columns["truth"][good], columns["quantiles"][good]
                known = ~np.isnan(truth) & ~np.isnan(quantiles).any(-1)
                self.known += known.sum(0)
                self.below += ((truth[..., None] < quantiles) & known[..., None]).sum(0)
            yield block

    def found(self) -> dict[str, Any]:
        """All counts, under the names that `answers.json` uses."""
        words = {"status": STATUS, "trust": LEVELS, "checks": LEVELS}
        each = {name: {of: self.codes[name][code] for code, of in enumerate(said)} for name, said in words.items()}
        prior, coverage = self.answers.prior, {}
        for d, name in enumerate(prior.names):
            if self.known[d] and name not in prior.discrete():
                share = (self.below[d] / self.known[d]).tolist()
                coverage[name] = {"rows": int(self.known[d]), "below": share, "expected": self.expected}
        each["verdicts"] = {level: self.verdicts[level] for level in map(str, Level)}
        return {**each, "answered": each["status"]["answered"], "unreliable": self.unreliable, "coverage": coverage}


__all__ = ["own_folder", "query_all"]
