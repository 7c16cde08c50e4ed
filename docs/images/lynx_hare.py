"""The picture of the README, from a run folder of the pipeline `lynx_hare`.

python docs/images/lynx_hare.py runs/lynx_hare docs/images/lynx_hare.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from sciinf import load_simulator
from sciinf.answer import load_answer
from sciinf.figures.corner import corner, windows
from sciinf.figures.predictive import Checked, predictive
from sciinf.figures.prior_curves import prior_marginals

ROOT = Path(__file__).parent.parent.parent
SHOWN = ("alpha", "beta", "gamma", "delta")
DPI = 120


def drawn(figure: Figure, width: float, height: float) -> Image.Image:
    """A figure of a given size in inches as an image, on white."""
    figure.set_size_inches(width, height)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return Image.open(file).convert("RGB")


def draw(run: Path, out: Path) -> None:
    """Four parameters on the left; on the right both species, counted and predicted."""
    answer, simulator = load_answer(run), load_simulator(ROOT / "simulators" / "lotka_volterra.py")
    columns = [answer.draws.names.index(name) for name in SHOWN]
    units = [answer.draws.units[i] for i in columns]
    theta, weights = answer.draws.theta[:, columns].double().numpy(), answer.draws.weights.numpy()
    prior = prior_marginals(simulator.prior, list(SHOWN), windows(theta, weights))
    figure = corner(SHOWN, units, theta, weights, prior=prior)
    for axes in figure.axes:  # the margins are for a larger figure
        place = axes.get_position()
        axes.set_position(
            (
                0.11 + 0.93 * (place.x0 - 0.065),
                0.115 + 0.92 * (place.y0 - 0.05),
                0.93 * place.width,
                0.92 * place.height,
            )
        )
    left = drawn(figure, 6.8, 6.8)
    right = []
    for i, species in enumerate(("hare", "lynx")):
        observed, simulated = answer.observation["counts"][:, i], answer.predictive["counts"][:, :, i]
        figure = predictive(Checked(f"{species}, thousands of pelts", "", ("time",), "log", observed, simulated)).figure
        figure.axes[0].set_xlabel("years after 1900")
        if right:
            figure.legends[0].remove()
        right.append(drawn(figure, 5.6, 3.4))
    whole = Image.new("RGB", (left.width + right[0].width + 20, left.height), "white")
    whole.paste(left, (0, 0))
    for i, panel in enumerate(right):
        whole.paste(panel, (left.width + 20, i * panel.height))
    whole.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
