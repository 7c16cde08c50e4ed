"""A star in 24 exposures of the Sloan Digital Sky Survey: one posterior, composed from scores of single exposures.

sciinf run pipelines/sdss_exposures.py --out runs/sdss_exposures
sciinf run pipelines/sdss_exposures.py --out runs/mine --file mine.fits --unit uJy --magnitude 18.2 --magnitude-sd 0.5
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sciinf import Answer, Compositional, Score, calibrate, load_simulator, query, simulate, train, wrappers
from sciinf.interfaces.figures.style import BLUE, MUTED, VERMILION, label, look

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(
    out: Path,
    *,
    file: str = "",
    unit: str = "nmgy",
    magnitude: float = 17.0,
    magnitude_sd: float = 0.3,
    position_sd: float = 1.0,
    seed: int = 0,
    simulations: int = 50_000,
    sets: int = 200,
) -> Answer:
    """Magnitude and position given all exposures, beside those of NUTS on all of their pixels.

    Args:
        out: Run folder.
        file: Exposures of another star, a table as `simulators/sdss_exposures.py` reads it (`read`).
        unit: Of its pixels, where the file has none: nanomaggies, or one that they convert to, such as uJy.
        magnitude: Mean of the prior of the star's magnitude.
        magnitude_sd: Its sd.
        position_sd: Sd of the prior of the position, pixels from the middle of the exposures.
        seed: Seeds everything.
        simulations: Single exposures to train on; a fifth as many more say for how many exposures that is good enough.
        sets: Sets of as many exposures as are observed, of one star each, on which the answer is calibrated.
    """
    simulator = star(file, unit, (magnitude, magnitude_sd), position_sd)
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    score = Score(simulator.prior, simulator.observables, hidden=64, seed=seed)
    fit = train(score, store, out / "fit", seed=seed)

    seen = simulator.observed()
    n = len(seen["x_seen"])
    held_out = simulate(simulator, out / "held_out_simulations", simulations // 5, seed=seed + 1)
    posterior = Compositional(fit, n, held_out=held_out)
    fresh = simulate(wrappers.sets(simulator, n, least=n), out / "calibration_simulations", sets, seed=seed + 2)
    calibration = calibrate(posterior, fresh, out)
    answer = query(posterior, seen, calibration, out=out, seed=seed)

    reference = simulator.posterior(simulator.exposures, 4_000, seed=seed)
    print(f"{n} exposures; single scores are good enough for {posterior.reliable:.0f}")
    for k, (name, found) in enumerate(answer.parameters.items()):
        mean, sd = float(reference[:, k].mean()), float(reference[:, k].std())
        print(f"{name:9}  composed {found.mean:.4f} ± {found.sd:.4f}  NUTS {mean:.4f} ± {sd:.4f} {found.unit}")
    _draw(out / "exposures.png", simulator.exposures.pixels, answer, reference)
    return answer


def star(file: str, unit: str, magnitude: tuple[float, float], position: float) -> Any:
    """The simulator of a star, with the options of `run`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a unit has no file, or the file does not hold exposures.
    """
    if unit != "nmgy" and not file:
        raise ValueError(f"--unit {unit} is of the pixels of your own exposures: name them with --file")
    simulator: Any = load_simulator(SIMULATORS / "sdss_exposures.py")
    if not file and (magnitude, position) == ((17.0, 0.3), 1.0):
        return simulator
    made = type(simulator)(*([file, unit] if file else []), magnitude=magnitude, position=position)
    made.source = simulator.source
    return made


def _draw(file: Path, pixels: Tensor, answer: Answer, reference: Tensor) -> None:
    """The exposures, and below them both posteriors of each parameter."""
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(9.6, 6.4), layout="constrained", facecolor="white")
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.2, 1))
        above, below = parts
        for axes, stamp in zip(above.subplots(3, -(-len(pixels) // 3)).flat, pixels, strict=True):
            axes.imshow((stamp / 0.1).asinh().numpy(), origin="lower", cmap="gray", vmin=0, vmax=6)
            axes.set_axis_off()
        for k, axes in enumerate(below.subplots(1, len(answer.draws.names))):
            composed, nuts = answer.draws.theta[:, k].numpy(), reference[:, k].numpy()
            low, high = np.quantile(np.concatenate([composed, nuts]), (0.0005, 0.9995))
            edges = np.linspace(low, high, 40)
            axes.hist(composed, edges, density=True, color=BLUE, alpha=0.3, label="composed from single exposures")
            axes.hist(
                nuts, edges, density=True, histtype="step", linewidth=1.4, color=VERMILION, label="NUTS on all pixels"
            )
            axes.set_xlabel(label(answer.draws.names[k], answer.draws.units[k]))
            axes.set_yticks([])
            axes.locator_params(axis="x", nbins=4)
            axes.spines["left"].set_color(MUTED)
        below.legend(*below.axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        figure.savefig(file, dpi=150)
