"""What each surface shows of the verdict on an answer, beside `answer.verdict`: a part of `verdicts`.

Surfaces are the printed answer, its table, the notebook, the command `sciinf query`, the report, the service over HTTP
and each format of the exports. The sentence must be there, unchanged, and the level where the surface has one.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import torch
from reporting import Rows
from serve import served
from verdict_models import Model
from verdict_runs import INFERRED, PLAIN

from sciinf import Answer, Simulator, load_answer, load_simulator, write_report
from sciinf.interfaces.asking import nearest, refined_in
from sciinf.interfaces.exports import to_table, write_bilby, write_draws, write_getdist, write_netcdf, write_table

LEVEL, SENTENCE = "verdict", "sentence"
"""Keys of the exports and of the service."""
_HEADLINE = re.compile(r'<section class="verdict[^"]*"[^>]*>\s*<p class="headline">(.*?)</p>', re.DOTALL)
_FITS = {LEVEL: "VERDICT", SENTENCE: "SENTENCE"}

Shown = tuple[str | None, str | None]
"""Level and sentence that a surface shows; None where a surface has no place for it, "" where it is missing."""


def surfaces_of(model: Model, out: Path) -> Rows:
    """Each surface of each answer of a model, in a copy of its run folder.

    Args:
        model: The model, whose answers were made.
        out: The folder of the benchmark.

    Returns:
        A row for each observation and surface: whether it shows the verdict of the answer, and what it shows.
    """
    torch.set_num_threads(1)
    folder, rows = out / model.name, list[dict[str, Any]]()
    simulator = load_simulator(model.file(folder))
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = shutil.copytree(folder / "run", Path(scratch) / "run")
        answers = {name: load_answer(run, name=name) for name in (*INFERRED, *PLAIN)}
        shown = _all_shown(simulator, folder, run, answers)
    for name, found in shown.items():
        verdict = answers[name].verdict
        for surface, (level, sentence) in found.items():
            same = level in (None, str(verdict.level)) and sentence in (None, verdict.sentence)
            row = {"model": model.name, "observation": name, "surface": surface, "same": same}
            rows.append(row | {"shows": "" if same else f"{level or ''}: {sentence}"})
    return rows


def _all_shown(
    simulator: Simulator, folder: Path, run: Path, answers: Mapping[str, Answer]
) -> dict[str, dict[str, Shown]]:
    """What every surface shows: name of the observation -> surface -> level and sentence.

    The command and the service weight by a likelihood where there is one, and ask a refined network where one was
    refined near the observation. Both make other answers than the plain ones of `query`, so they are asked only
    where there is neither.
    """
    shown = {name: {**_in_python(answer), **_exported(answer)} for name, answer in answers.items()}
    write_report(run)
    refined = [] if simulator.log_likelihood else refined_in(run, "cpu", simulator)
    other = PLAIN if simulator.log_likelihood else ()
    other = other or [name for name in PLAIN if nearest(refined, simulator.observe(folder / f"{name}.npz"))]
    for name, answer in answers.items():
        shown[name]["report"] = None, _reported(run, name, answer.verdict.sentence)
    for name in (INFERRED[0], *(name for name in PLAIN[:1] if name not in other)):
        said = _commanded(run, folder / f"{name}.npz")
        shown[name]["command"] = None, _within(said, answers[name].verdict.sentence)
    with served(run) as url:
        for name in (name for name in answers if name not in other):
            values = {key: value.tolist() for key, value in simulator.observe(folder / f"{name}.npz").items()}
            shown[name]["service"] = _asked(url, {"x": values, "name": name})
    return shown


def _in_python(answer: Answer) -> dict[str, Shown]:
    """The verdict in the answer as it is printed, in its table, and in a notebook."""
    sentence = answer.verdict.sentence
    lines = {"print": str(answer).splitlines()[0], "table": answer.table().splitlines()[0]}
    lines["notebook"] = html.unescape(re.sub(r"<[^>]*>", " ", answer._repr_html_()))
    return {surface: (None, _within(text, sentence)) for surface, text in lines.items()}


def _within(text: str, sentence: str) -> str:
    """The sentence, where a text has it. Otherwise the beginning of the text."""
    return sentence if sentence in text else " ".join(text.split())[:200]


def _exported(answer: Answer) -> dict[str, Shown]:
    """The verdict in each format that takes the answer."""
    numbers_alone = not answer.draws.categories
    found: dict[str, Shown] = {"QTable": _pair(to_table(answer).meta)}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, read in _TABLES.items():
            found[suffix] = read(write_table(answer, Path(folder) / f"draws{suffix}"))
        found["draws.h5"] = _of_draws(write_draws(answer, Path(folder) / "posterior.h5"))
        found[".nc"] = _of_netcdf(write_netcdf(answer, Path(folder) / "draws.nc"))
        if numbers_alone:
            found["bilby"] = _of_bilby(write_bilby(answer, Path(folder) / "draws_result.json"))
            found["getdist"] = _of_getdist(write_getdist(answer, Path(folder) / "chain"), answer.verdict.sentence)
    return found


def _pair(facts: Any, names: dict[str, str] | None = None) -> Shown:
    """Level and sentence from a mapping of facts."""
    level, sentence = (facts.get((names or {}).get(key, key), "") for key in (LEVEL, SENTENCE))
    return str(level), str(sentence)


def _of_ecsv(file: Path) -> Shown:
    from astropy.table import QTable

    return _pair(QTable.read(file, format="ascii.ecsv").meta)


def _of_fits(file: Path) -> Shown:
    from astropy.table import QTable

    return _pair(QTable.read(file, format="fits").meta, _FITS)


def _of_h5(file: Path) -> Shown:
    from astropy.table import QTable

    return _pair(QTable.read(file, format="hdf5", path="draws").meta)


_TABLES: dict[str, Callable[[Path], Shown]] = {".ecsv": _of_ecsv, ".fits": _of_fits, ".h5": _of_h5}


def _of_netcdf(file: Path) -> Shown:
    with h5py.File(file) as opened:
        kept = {key: value.decode() if isinstance(value, bytes) else value for key, value in opened.attrs.items()}
        kept |= dict(opened["posterior"].attrs)
        return _pair(kept)


def _of_draws(file: Path) -> Shown:
    with h5py.File(file) as opened:
        return _pair(opened.attrs)


def _of_bilby(file: Path) -> Shown:
    return _pair(json.loads(file.read_text())["meta_data"]["sciinf"])


def _of_getdist(root: Path, sentence: str) -> Shown:
    text = "\n".join(file.read_text() for file in root.parent.glob(f"{root.name}.*") if file.is_file())
    return None, _within(text, sentence)


def _reported(run: Path, name: str, sentence: str) -> str:
    """The headline of an answer in the report of the run."""
    page = (run / "report.html").read_text()
    page = page.partition(f"<h2>{name}</h2>")[2].partition("</article>")[0]
    headlines = [html.unescape(re.sub(r"<[^>]*>", "", one)) for one in _HEADLINE.findall(page)]
    return sentence if sentence in headlines else " | ".join(headlines)[:200]


def _commanded(run: Path, observation: Path) -> str:
    """The first line that `sciinf query` prints."""
    words = [sys.executable, "-W", "ignore", "-m", "sciinf.cli", "query", str(run), "--observation", str(observation)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    return (ended.stdout or ended.stderr).strip().partition("\n")[0]


def _asked(url: str, question: dict[str, Any]) -> Shown:
    """Level and sentence of the service's answer."""
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/models/run/answer", json.dumps(question).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            said = json.load(response)
    except urllib.error.HTTPError as error:
        return "", error.read().decode()[:200]
    return said.get("verdict", ""), said.get("sentence", "")
