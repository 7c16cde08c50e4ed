"""How often the verdict on an answer is right: sixty answers whose exact posterior is known, of twelve models.

    python benchmarks/verdicts.py [--quick] [--only NAME ...] [--out runs/verdicts] [--workers 2]

Each model of `verdict_models` has one run folder, made by `sciinf infer` with three observations, and two further
observations that are asked by `query` of the run's network, without a refinement. All observations are drawn from the
prior predictive distribution of the true model.

An answer is right if every mean is within .15 exact sds, every ratio of an sd to the exact one between .9 and 1.1, and
every probability of a discrete value within .05 of the exact one. The verdict is `answer.verdict`. Of the right answers
of `sciinf infer`, few may be told not to be relied on. Of the wrong ones of either kind, nearly none may be told to be.

What is made stays in the folder, and a second call grades it again. `landscape.json` there has all findings of each
answer. `verdict_surfaces` compares what each place shows of them.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from argparse import ArgumentParser
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from reporting import Rows, arguments, check, finish, table
from verdict_models import MODELS, Compared, Model, compare
from verdict_runs import INFERRED, PLAIN, exact_posteriors, make_answers
from verdict_surfaces import surfaces_of

from sciinf import Answer, load_answer
from sciinf.core.files import write_json

KINDS = {**dict.fromkeys(INFERRED, "default infer"), **dict.fromkeys(PLAIN, "plain")}
WORDS = ("rely", "rely with care", "cannot tell", "do not rely")
_DIFFERING = "answers and surfaces where the surface shows another verdict"
QUICK, QUICK_N = ("decay", "sources"), 500


def graded(model: Model, out: Path, n: int, seed: int) -> Rows:
    """Make what is missing of a model's answers, and compare each with the exact posterior and its verdict.

    Args:
        model: The model.
        out: The folder of the benchmark.
        n: Simulations to train on.
        seed: Seeds the observations.

    Returns:
        A row for each observation, with all findings.
    """
    torch.set_num_threads(1)
    folder = out / model.name
    seconds = make_answers(model, folder, n, seed)
    exact, rows = exact_posteriors(model, folder), []
    for name, kind in KINDS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = load_answer(folder / "run", name=name)
        found = compare(answer.draws.of_parameters(), exact[name])
        rows.append({"model": model.name, "observation": name, "kind": kind, **_row(answer, found), "seconds": seconds})
    print(f"{model.name}: {sum(row['right'] for row in rows)} of {len(rows)} are right", file=sys.stderr, flush=True)
    return rows


def _row(answer: Answer, found: Compared) -> dict[str, Any]:
    """An answer's errors, verdict and findings."""
    verdict, calibration = answer.verdict, answer.calibration
    return {
        "mean_error": found.mean_error,
        "sd_ratio": found.sd_ratio,
        "probability_error": found.probability_error,
        "right": found.right,
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "posterior": answer.posterior,
        "ess": answer.draws.ess,
        "pareto_k": answer.draws.pareto_k,
        "calibration_state": "not checked" if calibration is None else calibration.state,
        "trust_level": answer.trust.level,
        "trust_p": answer.trust.p_value,
        "checks": [{"name": one.name, "level": one.level, "verdict": one.words} for one in answer.checks],
    }


def counted(rows: Rows) -> Rows:
    """How many right and wrong answers of each kind got each verdict."""
    found = []
    for kind in dict.fromkeys(KINDS.values()):
        for right in (True, False):
            words = [row["verdict"] for row in rows if row["kind"] == kind and row["right"] == right]
            said = {word: words.count(word) for word in WORDS}
            found.append({"answers": kind, "are": "right" if right else "wrong", "number": len(words), **said})
    return found


def judged(rows: Rows) -> Rows:
    """The checks of how often verdicts are right."""
    right = [row["verdict"] for row in rows if row["right"] and row["kind"] == KINDS[INFERRED[0]]]
    wrong = [row["verdict"] for row in rows if not row["right"]]
    refused = sum(word in ("do not rely", "cannot tell") for word in right)
    return [
        check("right default answers: share of `do not rely` and `cannot tell`", refused / max(len(right), 1), 0.05),
        check("right default answers: share of `rely with care`", _share(right, "rely with care"), 0.15),
        check("wrong answers: share of `rely`", _share(wrong, "rely"), 0.05),
    ]


def _share(words: list[str], word: str) -> float:
    return words.count(word) / max(len(words), 1)


def counted_surfaces(rows: Rows) -> Rows:
    """How many answers each surface shows, and how many of them with another verdict."""
    names = dict.fromkeys(row["surface"] for row in rows)
    same = {name: [row["same"] for row in rows if row["surface"] == name] for name in names}
    return [{"surface": name, "shown": len(one), "differing": one.count(False)} for name, one in same.items()]


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """What is printed of an answer."""
    names = {"model": "model", "observation": "x", "kind": "kind", "mean_error": "mean error", "sd_ratio": "sd ratio"}
    names |= {"probability_error": "probability error"}
    found = {label: row[name] for name, label in names.items()}
    return found | {"is": "right" if row["right"] else "wrong", "verdict": row["verdict"], "sentence": row["sentence"]}


def _options(parser: ArgumentParser) -> ArgumentParser:
    parser.add_argument("--only", nargs="+", choices=MODELS, default=None, metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--out", type=Path, default=None, help="where runs stay; runs/verdicts, or runs/verdicts_quick")
    parser.add_argument("--skip-surfaces", action="store_true", help="do not compare what each place shows")
    parser.add_argument("--workers", type=int, default=2, help="models that are run at a time, one thread each")
    return parser


def main() -> None:
    """Run what is missing, grade, and print."""
    options = _options(arguments((__doc__ or "").splitlines()[0])).parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    names = options.only or (QUICK if options.quick else MODELS)
    out = (options.out or Path("runs/verdicts_quick" if options.quick else "runs/verdicts")).resolve()
    started = time.monotonic()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        each = partial(pool.submit, graded)
        tasks = [each(MODELS[k], out, QUICK_N if options.quick else MODELS[k].n, options.seed) for k in names]
        rows = [row for task in tasks for row in task.result()]
        write_json(out / "landscape.json", {"answers": rows})
        print(table([shown(row) for row in rows]), "\n", flush=True)
        looked = [] if options.skip_surfaces else [pool.submit(surfaces_of, MODELS[name], out) for name in names]
        surfaces = [row for task in looked for row in task.result()]
    if differing := [row for row in surfaces if not row["same"]]:
        print(table(differing), "\n")
    print(f"{time.monotonic() - started:.0f} s; making all answers took {_seconds(rows):.0f} s of one process each\n")
    checks = judged(rows) + ([] if options.skip_surfaces else [check(_DIFFERING, len(differing), 0)])
    finish(counted(rows) + counted_surfaces(surfaces), checks, options.json)


def _seconds(rows: Rows) -> float:
    return sum({row["model"]: row["seconds"] for row in rows}.values())


if __name__ == "__main__":
    main()
