"""write_report: a run folder -> one self-contained HTML page.

Everything is inline: no script, no font, nothing fetched, and a content security policy that holds the page to it. What
the folder lacks is left out with a sentence that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core.files import write_bytes
from sciinf.core.quantities import truth_in
from sciinf.core.simulator import Status
from sciinf.figures.answers import answer_part, answers_table
from sciinf.figures.calibration import CONFIDENCE, PANELS, coverage_figure, rank_curves, ranks_figure
from sciinf.figures.corner import LEVELS, corner, windows
from sciinf.figures.history import history_figure
from sciinf.figures.methods_text import epochs, methods_text
from sciinf.figures.page import (
    Section,
    absent,
    details,
    duration,
    page,
    paragraph,
    picture,
    table,
)
from sciinf.figures.predictive import predictive
from sciinf.figures.prior_curves import prior_marginals
from sciinf.figures.run_folder import NOT_PREDICTED, STORES, Run, read_runs
from sciinf.figures.svg import to_svg
from sciinf.figures.verdicts import verdict_band, verdicts_band
from sciinf.storage.answers import answer_folders

_CORNER = 12
_PICTURED = 12


def write_report(
    folder: str | Path, *, truth: Mapping[str, Any] | None = None, names: Sequence[str] | None = None
) -> Path:
    """Write `report.html` into a run folder.

    Args:
        folder: What `sciinf infer`, `sciinf run` or the steps themselves wrote.
        truth: Parameter -> true value, a number in its unit or a quantity of astropy, where the observation was
            simulated; drawn as lines.
        names: Of which observations, by the names of their answers; all when left out.

    Returns:
        The page.

    Raises:
        FileNotFoundError: If the folder holds nothing to report on.
        ValueError: If `truth` names a parameter that the answer does not have, or there is no answer of a name.
    """
    runs = read_runs(folder, names)
    run = next(iter(runs.values()))
    known = run.answer.get("parameters", {})
    truth = truth_in(truth, list(known), [known[name]["unit"] for name in known])
    sections = [
        *(_one(run, truth) if len(runs) == 1 else _several(runs, truth)),
        Section("calibration", "Calibration", _calibration(run)),
        Section("training", "Training", _training(run)),
        Section("simulations", "Simulations", _simulations(run)),
        Section("provenance", "Provenance", _provenance(run)),
        Section("methods", "Methods text", _methods(run)),
    ]
    band = verdict_band(run) if len(runs) == 1 else verdicts_band(runs)
    html = page(run.name, _about(run), band + _doubts(runs.values()), sections, _foot(run))
    path = Path(folder) / "report.html"
    write_bytes(path, html.encode())
    return path


def _doubts(runs: Iterable[Run]) -> str:
    """Files that are damaged, and those that nothing vouches for."""
    found = dict.fromkeys(doubt for run in runs for doubt in run.doubts)
    return absent(f"Not read, or not to be checked: {' '.join(found)}") if found else ""


def _one(run: Run, truth: Mapping[str, float]) -> list[Section]:
    return [
        Section("answer", "Answer", answer_part(run)),
        Section("posterior", "Posterior", _posterior(run, truth)),
        Section("predictive", "Prediction and data", _predictive(run)),
    ]


def _several(runs: Mapping[str, Run], truth: Mapping[str, float]) -> list[Section]:
    """One table of all answers, then each by itself, the first of them with their pictures."""
    sections = [Section("answers", "Answers", answers_table(runs))]
    for index, (name, run) in enumerate(runs.items()):
        parts = [verdict_band(run, f"verdict{index}"), answer_part(run)]
        if index < _PICTURED:
            unlike = f"answer{index}_"
            parts += [_posterior(run, truth, unlike), _predictive(run, unlike)]
        else:
            parts.append(
                paragraph(f"Pictures of the first {_PICTURED} are drawn; `sciinf report` with a name draws its own.")
            )
        sections.append(Section(f"answer{index}", name, "".join(parts)))
    return sections


def _about(run: Run) -> str:
    parts = [_date(run)]
    store = run.stores.get("simulations")
    if store is not None:
        parts.append(f"{store.rows:,} simulations")
    if run.answer.get("posterior"):
        parts.append(f"posterior: {run.answer['posterior']}")
    return " · ".join(parts)


def _date(run: Run) -> str:
    try:
        when = datetime.fromisoformat(str(run.provenance["started"]))
    except (KeyError, ValueError):
        answers = [f / "answer.json" for f in answer_folders(run.folder).values()]
        files = [*answers, *(run.folder / name for name in ("calibration.json", "fit/fit.json"))]
        times = [f.stat().st_mtime for f in files if f.is_file()]
        when = datetime.fromtimestamp(max(times), UTC) if times else datetime.now(UTC)
    return f"{when.day} {when:%B %Y}"


def _posterior(run: Run, truth: Mapping[str, float], prefix: str = "") -> str:
    draws = run.draws
    if draws is None:
        return absent(run.missing["draws" if run.answer else "answer"])
    keep = [i for i, _ in enumerate(draws.names)][:_CORNER]
    names, units = [draws.names[i] for i in keep], [draws.units[i] for i in keep]
    theta = draws.theta.double().numpy()[:, keep]
    weights = draws.weights.numpy()
    good = np.isfinite(theta).all(axis=1) & (weights > 0)
    if good.sum() < 2:
        return absent("Fewer than two posterior draws are finite, so there is nothing to draw.")
    theta, weights = theta[good], weights[good]
    shown = {name: value for name, value in truth.items() if name in names}
    prior = prior_marginals(run.prior, names, windows(theta, weights, [shown.get(n) for n in names]))
    figure = corner(names, units, theta, weights, prior=prior, truth=shown)
    alt = f"Corner plot of the posterior of {', '.join(names)}."
    caption = "Each parameter's posterior density"
    if len(names) > 1:
        caption += (
            f" and, below the diagonal, the regions that hold {' and '.join(f'{v:.0%}' for v in LEVELS)} of each pair"
        )
    caption += "; the prior is dashed where its density can be drawn." if prior else "."
    left_out = len(draws.names) - len(names)
    note = f" The first {_CORNER} of {len(draws.names)} parameters are drawn." if left_out else ""
    return picture(to_svg(figure, alt, f"{prefix}corner"), caption + note, "Posterior.")


def _predictive(run: Run, prefix: str = "") -> str:
    if not run.checked:
        return absent(run.missing.get("checked" if run.answer else "answer", NOT_PREDICTED))
    parts = [
        paragraph(
            f"Data simulated from {len(run.checked[0].predictive):,} draws of the posterior, against the observation."
        )
    ]
    for index, checked in enumerate(run.checked):
        drawn = predictive(checked)
        alt = f"{checked.name}: observation against data predicted by the posterior. {drawn.caption}"
        caption = f"{drawn.caption} {drawn.note}".strip()
        parts.append(picture(to_svg(drawn.figure, alt, f"{prefix}predictive{index}"), caption, f"{checked.name}."))
    return "".join(parts)


def _calibration(run: Run) -> str:
    found = run.calibration
    if found is None:
        return absent(run.missing["calibration"])
    words = (
        f"On {found.rows:,} fresh simulations, whose true parameters are known, {found.draws:,} draws each of the "
        f"{found.of} posterior were compared with the truth."
    )
    if found.failed_rows:
        words += f" {found.failed_rows:,} simulations that failed were left out."
    parts = [paragraph(words)]
    figure = coverage_figure(found.levels, found.coverage, found.tarp, found.rows)
    caption = (
        f"How often the truth lies inside the posterior's credible regions, and the difference from the nominal level "
        f"in percentage points (pp). Grey: where each point of an exact posterior falls, with probability "
        f"{CONFIDENCE:.0%}."
    )
    if len(found.coverage) == 0:
        caption += " This posterior has no density, so highest-density regions are not drawn."
    parts.append(
        picture(to_svg(figure, "Found against nominal coverage. " + caption, "coverage"), caption, "Coverage.")
    )
    if len(found.ranks) and len(found.names):
        curves = rank_curves(found.ranks, found.draws)
        outside = [name for name, curve in zip(found.names, curves, strict=True) if not curve.inside]
        caption = (
            "Distribution of the rank of each true parameter among its draws, minus the uniform one, in percentage "
            f"points (pp). Grey: where an exact posterior's whole curve stays with probability {CONFIDENCE:.0%}. "
            + (f"Outside, in red: {', '.join(outside)}." if outside else "All curves stay inside.")
        )
        if outside and found.passed:
            caption += " An error counts where it is significant and reaches three points (a tail: 0.2)."
        if len(curves) > PANELS:
            caption += f" The first {PANELS} of {len(curves)} parameters are drawn."
        parts.append(picture(to_svg(ranks_figure(found.names, curves), caption, "ranks"), caption, "Ranks."))
    rows = [
        [name, f"{100 * found.gaps[name]:.1f}" if found.gaps.get(name) is not None else "–", _p(p)]
        for name, p in found.p_values.items()
    ]
    if rows:
        caption = "Largest distance between found and nominal coverage, and p-value of uniformity (uncorrected)."
        inner = table(["test", "gap [percentage points]", "p"], rows, ["", "n", "n"], caption)
        parts.append(details("All tests", inner))
    return "".join(parts)


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"


def _training(run: Run) -> str:
    if not run.history:
        return absent(run.missing["history"])
    epoch, train, validation = (run.history[k] for k in ("epoch", "train_loss", "validation_loss"))
    best = int(np.nanargmin(validation)) if np.isfinite(validation).any() else len(validation) - 1
    recipe, count = run.fit.get("recipe") or {}, epochs(run)
    words = f"{count:,} epochs{_trained_on(run)}"
    words += f", batches of {recipe['batch']:,}" if recipe.get("batch") else ""
    words += f", {duration(run.fit['seconds'])}" if run.fit.get("seconds") else ""
    words += f". {_weights_kept(run, int(epoch[best]) + 1, float(validation[best]))}"
    figure = history_figure(epoch, train, validation)
    caption = (
        "Mean negative log density of the true parameters in the coordinates that the network learns them in, "
        "unbounded and standardised, on the simulations trained on and on those held out."
    )
    alt = f"Training and validation loss over {count:,} epochs; lowest validation loss in {int(epoch[best]) + 1}."
    return paragraph(words.replace("loss -", "loss −") + ".") + picture(
        to_svg(figure, alt, "history"), caption, "Training."
    )


def _weights_kept(run: Run, epoch: int, loss: float) -> str:
    """Which weights the fit has, and their validation loss; an average made after the training is that of no epoch."""
    average = str(run.fit.get("average") or "")
    if average.startswith("average"):
        kept, loss = f"The {average} was kept", float(run.fit.get("best_validation_loss", loss))
        return f"{kept.replace('average', 'average of the weights', 1)}: validation loss {loss:.3f}"
    running = isinstance((run.fit.get("recipe") or {}).get("ema"), float)
    what = "running average of the weights at epoch" if running else "weights of epoch"
    return f"The {what} {epoch} {'was' if running else 'were'} kept: validation loss {loss:.3f}"


def _trained_on(run: Run) -> str:
    """How many simulations the weights were fitted to; those held out only chose among the epochs."""
    store = run.fit.get("store") or {}
    used, held_out = store.get("used"), store.get("held_out")
    if not used:
        return ""
    if store.get("online"):
        times = store.get("reuse") or 1
        often = "once" if times == 1 else f"up to {times:,} times"
        made = f" on {used - (held_out or 0):,} simulations made meanwhile and used {often} each"
        return made + (f", with {held_out:,} more held out" if held_out else "")
    if held_out is None:
        return f" on {used:,} simulations, those held out included"
    return f" on {used - held_out:,} simulations, with {held_out:,} more held out"


def _simulations(run: Run) -> str:
    if not run.stores:
        return absent("The folder holds no simulations; the answer rests on a fit made elsewhere.")
    head = ["", "rows", *(_STATUS[s] for s in Status), "time", "seed"]
    rows, messages = [], []
    for name, store in run.stores.items():
        rows.append([STORES[name].capitalize(), f"{store.rows:,}", *(f"{store.counts.get(s, 0):,}" for s in Status)])
        rows[-1] += [duration(store.seconds), str(store.seed)]
        messages += [[f"{row:,}", STORES[name], status, text] for row, status, text in store.messages]
    parts = [table(head, rows, ["", *["n"] * (len(head) - 1)])]
    unfinished = [f"{STORES[n]}: {s.rows:,} of {s.asked:,} rows" for n, s in run.stores.items() if s.rows < s.asked]
    if unfinished:
        parts.append(paragraph(f"Unfinished: {'; '.join(unfinished)}."))
    parts += [absent(run.missing[name]) for name in STORES if name in run.missing]
    if messages:
        parts.append("<h3>First failures</h3>")
        parts.append(table(["row", "store", "what happened", "message"], messages, ["", "", "", "wrap"]))
        parts.append(paragraph("Failed simulations are kept on disk and left out of training and calibration."))
    return "".join(parts)


_STATUS = {Status.OK: "good", Status.NON_FINITE: "non-finite", Status.RAISED: "raised", Status.TIMED_OUT: "timed out"}


def _provenance(run: Run) -> str:
    about = run.provenance or {key: run.fit[key] for key in ("versions", "seed") if key in run.fit}
    if not about:
        return absent(run.missing["provenance"])
    parts = [] if run.provenance else [absent(run.missing["provenance"])]
    if about.get("command"):
        parts.append(details("Command", "<pre>" + _escape(about["command"]) + "</pre>", opened=True))
    seconds = {k: v for k, v in (about.get("seconds") or {}).items() if v is not None}
    if seconds:
        rows = [[_plain_name(k), duration(float(v))] for k, v in seconds.items()]
        parts.append(details("Time per step", table(["step", "time"], rows, ["", "n"])))
    seeds = {"run": about.get("seed"), **(about.get("seeds") or {})}
    rows = [[_plain_name(k), str(v)] for k, v in seeds.items() if v is not None]
    if rows:
        parts.append(details("Seeds", table(["of", "seed"], rows, ["", "n"])))
    for key, title in (("versions", "Versions"), ("digests", "Digests (SHA-256)")):
        rows = [[_plain_name(k), str(v)] for k, v in (about.get(key) or {}).items() if v is not None]
        if rows:
            parts.append(details(title, table(["of", key.rstrip("s")], rows, ["", "wrap"])))
    others = {k: v for k, v in about.items() if k not in ("command", "seconds", "seed", "seeds", "versions", "digests")}
    if others:
        parts.append(details("More", f"<pre>{_escape(json.dumps(others, indent=1, ensure_ascii=False))}</pre>"))
    return "".join(parts)


def _plain_name(key: str) -> str:
    return key.replace("_", " ")


def _escape(text: object) -> str:
    from html import escape

    return escape(str(text))


def _methods(run: Run) -> str:
    text, papers = methods_text(run)
    items = "".join(f"<li>{_escape(paper)}</li>" for paper in papers)
    return f'{paragraph(text, "lead")}<h3>To cite</h3><ol class="refs">{items}</ol>'


def _foot(run: Run) -> str:
    version = (run.provenance.get("versions") or run.fit.get("versions") or {}).get("sciinf", "")
    return (
        f"Written by sciinf{f' {version}' if version else ''} from the files in this folder. The page needs no network."
    )
