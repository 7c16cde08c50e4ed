"""Report part on how an answer was made: training, simulations, provenance, methods text and references."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciinf.core.observable import Status
from sciinf.interfaces.figures.methods_text import bibtex, epochs, methods_text
from sciinf.interfaces.figures.page import absent, copied, details, duration, paragraph, picture, table
from sciinf.interfaces.figures.run_folder import STORES, Run
from sciinf.interfaces.figures.style import BLUE, MUTED, NARROW, ORANGE, PAPER, WIDTH, styled, whole_numbers
from sciinf.interfaces.figures.svg import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def history_figure(
    epoch: Float[np.ndarray, " e"],
    train: Float[np.ndarray, " e"],
    validation: Float[np.ndarray, " e"],
    width: float = WIDTH,
) -> Figure:
    """Figure of training and validation loss by epoch, with the best epoch marked.

    Args:
        epoch: Epoch numbers, counted from zero.
        train: Mean loss over the training rows at each epoch, in nats.
        validation: Mean loss over the held-out rows at each epoch, in nats.
        width: Width of the figure, in inches.

    Returns:
        A figure of one panel. Losses of the first epochs may lie outside the panel if they are far above the rest.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 2.9), layout="constrained")
    axes = figure.subplots()
    number = epoch + 1
    axes.plot(number, train, color=ORANGE, linewidth=1.3, label="training")
    axes.plot(number, validation, color=BLUE, linewidth=1.6, label="validation")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        axes.plot(
            number[best], validation[best], "o", color=BLUE, markersize=6, markeredgecolor=PAPER, label="best, kept"
        )
        axes.axvline(float(number[best]), color=MUTED, linewidth=0.8, dashes=(2, 3), zorder=0)
    both = np.concatenate([train, validation])
    both = both[np.isfinite(both)]
    if len(number) > 10 and len(both):
        low, high = float(both.min()), float(np.quantile(both, 0.93))
        axes.set_ylim(low - 0.06 * (high - low), high + 0.25 * (high - low))
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, −log density [nat]")
    whole_numbers(axes.xaxis)
    axes.margins(x=0.02)
    axes.grid(axis="y")
    axes.legend(loc="upper right")
    return figure


_STATUS = {Status.OK: "good", Status.NON_FINITE: "non-finite", Status.RAISED: "raised", Status.TIMED_OUT: "timed out"}

# These entries are shown in tables or below the verdict.
_TOLD = ("command", "seconds", "seed", "seeds", "versions", "digests", "next")


def made_part(run: Run) -> str:
    """HTML of how an answer was made, in folded parts."""
    text, papers = methods_text(run)
    items = "".join(f"<li>{escape(paper.words)}</li>" for paper in papers)
    cited = f'<ol class="refs">{items}</ol>' + copied("bibtex", f"<pre>{escape(bibtex(papers))}</pre>")
    return "".join(
        [
            details("Training", _training(run)),
            details("Simulations", _simulations(run)),
            details("Provenance", _provenance(run)),
            details("Methods text", copied("methods", paragraph(text, "lead"))),
            details("To cite, and BibTeX", cited),
        ]
    )


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
    figure = history_figure(epoch, train, validation, NARROW)
    caption = (
        "Mean negative log density of the true parameters in the coordinates that the network learns them in, "
        "unbounded and standardised, on the simulations trained on and on those held out."
    )
    alt = f"Training and validation loss over {count:,} epochs; lowest validation loss in {int(epoch[best]) + 1}."
    return paragraph(words.replace("loss -", "loss −") + ".") + picture(
        [to_svg(figure, alt, "history")], caption, "Training."
    )


def _weights_kept(run: Run, epoch: int, loss: float) -> str:
    """Words about the weights that the fit kept, and their validation loss.

    An average of weights made after the training belongs to no single epoch, so no epoch is named.
    """
    average = str(run.fit.get("average") or "")
    if average.startswith("average"):
        kept, loss = f"The {average} was kept", float(run.fit.get("best_validation_loss", loss))
        return f"{kept.replace('average', 'average of the weights', 1)}: validation loss {loss:.3f}"
    running = isinstance((run.fit.get("recipe") or {}).get("ema"), float)
    what = "running average of the weights at epoch" if running else "weights of epoch"
    return f"The {what} {epoch} {'was' if running else 'were'} kept: validation loss {loss:.3f}"


def _trained_on(run: Run) -> str:
    """Words about the number of simulations that the weights were fitted to.

    Held-out simulations are counted apart, because they only select the epoch.
    """
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
    came = store.get("followed")
    words = f", read as they came; the data are standardised by the first {came['standardised_by']:,}" if came else ""
    return f" on {used - held_out:,} simulations, with {held_out:,} more held out{words}"


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


def _provenance(run: Run) -> str:
    about = run.provenance or {key: run.fit[key] for key in ("versions", "seed") if key in run.fit}
    if not about:
        return absent(run.missing["provenance"])
    parts = [] if run.provenance else [absent(run.missing["provenance"])]
    if about.get("command"):
        parts.append(copied("command", f"<pre>{escape(str(about['command']))}</pre>"))
    seconds = {k: v for k, v in (about.get("seconds") or {}).items() if v is not None}
    if seconds:
        rows = [[_plain_name(k), duration(float(v))] for k, v in seconds.items()]
        parts.append("<h3>Time per step</h3>" + table(["step", "time"], rows, ["", "n"]))
    seeds = {"run": about.get("seed"), **(about.get("seeds") or {})}
    rows = [[_plain_name(k), str(v)] for k, v in seeds.items() if v is not None]
    if rows:
        parts.append("<h3>Seeds</h3>" + table(["of", "seed"], rows, ["", "n"]))
    for key, title in (("versions", "Versions"), ("digests", "Digests (SHA-256)")):
        rows = [[_plain_name(k), str(v)] for k, v in (about.get(key) or {}).items() if v is not None]
        if rows:
            parts.append(f"<h3>{title}</h3>" + table(["of", key.rstrip("s")], rows, ["", "wrap"]))
    others = {k: v for k, v in about.items() if k not in _TOLD}
    if others:
        parts.append(details("More", f"<pre>{escape(json.dumps(others, indent=1, ensure_ascii=False))}</pre>"))
    return "".join(parts)


def _plain_name(key: str) -> str:
    return key.replace("_", " ")
