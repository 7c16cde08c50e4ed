"""The pictures of the gallery and of the README, from run folders of the pipelines, at most 60 kB each.

python docs/gallery.py runs/influenza runs/lynx_hare

A run folder is called like its pipeline. Where the pipeline drew a picture of its own, that one is taken; else the
posterior is drawn beside the data and their prediction. Pictures go to docs/images/NAME.png.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from sciinf import Answer, load_answer, load_simulator
from sciinf.core.observable import Observable
from sciinf.core.simulator import Simulator
from sciinf.interfaces.figures.corner import corner, windows
from sciinf.interfaces.figures.of_answer import figure_of
from sciinf.interfaces.figures.predictive import Along, Checked, predictive
from sciinf.interfaces.figures.prior_curves import prior_marginals

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SIMULATORS = {"lynx_hare": "lotka_volterra", "boarding_school": "sir_jumps"}  # where it is not called like the pipeline
SHOWN = {
    "lynx_hare": ("alpha", "beta", "gamma", "delta"),  # of eight parameters
    "coal_mines": ("tau_1", "tau_2", "tau_3", "rate_1", "rate_4"),  # of the most probable number of changes
    "two_epidemics": ("beta", "gamma", "phi_inv", "SEIR.sigma"),  # of the most probable model
}
LARGEST = 60_000  # bytes
DPI = 120


def picture(run: Path) -> Image.Image:
    """The picture of a run folder.

    Raises:
        ValueError: If the pipeline left no picture, and nothing is known of its simulator.
    """
    own = sorted(run.glob("*.png"))
    if own:
        return _on_white(Image.open(own[0]))
    file = ROOT / "simulators" / f"{SIMULATORS.get(run.name, run.name)}.py"
    if not file.is_file():
        raise ValueError(f"{run} holds no picture; name the simulator of {run.name!r} in SIMULATORS of {__file__}")
    simulator = load_simulator(file)
    drawn = probable if simulator.prior.mixed else beside
    return drawn(load_answer(run), simulator, SHOWN.get(run.name, simulator.prior.names))


def probable(answer: Answer, simulator: Simulator, shown: tuple[str, ...]) -> Image.Image:
    """On the left the posterior where discrete parameters are most probable, on the right probabilities and data."""
    left = _drawn(_with_room(figure_of(answer, "corner", names=shown)), 6.8, 6.8)
    panels = [panel for name, spec in simulator.observables.items() for panel in _panels(name, spec, answer)]
    parts = [_drawn(figure_of(answer, "probabilities"), 5.6, 2.4)]
    parts += [_drawn(predictive(panel).figure, 5.6, 4.4 / len(panels)) for panel in panels]
    whole = Image.new("RGB", (left.width + parts[0].width + 20, left.height), "white")
    whole.paste(left, (0, 0))
    for i, part in enumerate(parts):
        whole.paste(part, (left.width + 20, sum(above.height for above in parts[:i])))
    return whole


def beside(answer: Answer, simulator: Simulator, shown: tuple[str, ...]) -> Image.Image:
    """The posterior of some parameters on the left; on the right the data and what the posterior predicts."""
    columns = [answer.draws.names.index(name) for name in shown]
    units = [answer.draws.units[i] for i in columns]
    theta, weights = answer.draws.theta[:, columns].double().numpy(), answer.draws.weights.numpy()
    prior = prior_marginals(simulator.prior, list(shown), windows(theta, weights))
    figure = corner(shown, units, theta, weights, prior=prior)
    left = _drawn(_with_room(figure), 6.8, 6.8)
    panels = [panel for name, spec in simulator.observables.items() for panel in _panels(name, spec, answer)]
    right = [_drawn(predictive(panel).figure, 5.6, 6.8 / len(panels)) for panel in panels]
    whole = Image.new("RGB", (left.width + right[0].width + 20, left.height), "white")
    whole.paste(left, (0, 0))
    for i, panel in enumerate(right):
        whole.paste(panel, (left.width + 20, i * right[0].height))
    return whole


def _with_room(figure: Figure) -> Figure:
    """A corner plot with margins for its labels, which are for a larger figure."""
    for axes in figure.axes:
        x, y, width, height = axes.get_position().bounds
        axes.set_position((0.11 + 0.93 * (x - 0.065), 0.115 + 0.92 * (y - 0.05), 0.93 * width, 0.92 * height))
    return figure


def _panels(name: str, spec: Observable, answer: Answer) -> list[Checked]:
    """What is drawn of one observable: of a series of several kinds of data each by itself."""
    observed, simulated = answer.observation[name], answer.predictive[name]
    along = {axis: Along(tuple(values), spec.coord_units.get(axis, "")) for axis, values in spec.coords.items()}
    if len(spec.shape) < 2 or spec.dims[-1] not in along:
        return [Checked(name, spec.unit, spec.dims, spec.scale, observed, simulated, coords=along)]
    kinds, one = along.pop(spec.dims[-1]).values, spec.dims[:1]
    return [
        Checked(f"{name}: {kind}", spec.unit, one, spec.scale, observed[:, i], simulated[:, :, i], coords=along)
        for i, kind in enumerate(kinds)
    ]


def _drawn(figure: Figure, width: float, height: float) -> Image.Image:
    """A figure of a given size in inches, on white."""
    figure.set_size_inches(width, height)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    return _on_white(Image.open(file))


def _on_white(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")


def save(image: Image.Image, file: Path) -> None:
    """With as many colours, and then as many pixels, as the largest size allows."""
    while True:
        for colours in (None, 256, 128, 64, 48, 32):  # pixels as they were drawn compress better than scaled ones
            content = io.BytesIO()
            reduced = image if colours is None else image.quantize(colours, kmeans=1)
            reduced.save(content, format="png", optimize=True)
            if len(content.getvalue()) <= LARGEST:
                file.write_bytes(content.getvalue())
                return
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        save(picture(folder), IMAGES / f"{folder.name}.png")
        print(IMAGES / f"{folder.name}.png")
