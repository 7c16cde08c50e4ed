"""Draws as GetDist chains: `root_1.txt`, `root.paramnames`, `root.ranges`; getdist and anesthetic read them.

A row of `root_1.txt` has the weight, the -log posterior, the parameters and the derived quantities. In
`root.paramnames`, names of derived quantities end in `*`. sciinf does not know the log posterior of a draw, so its
column is 0. `root.properties.ini` says that the draws are independent and have no burn-in to remove. That file also has
the answer's verdict as `sciinf_verdict` and `sciinf_sentence`.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from sciinf.core.answer import Answer
from sciinf.core.draws import Draws
from sciinf.core.files import write_bytes
from sciinf.core.laws import bounds
from sciinf.core.prior import Prior
from sciinf.interfaces.exports.contents import numbers_of, prior_of


def write_getdist(source: Answer | Draws, root: str | Path, *, prior: Prior | None = None) -> Path:
    """Write draws as GetDist chains.

    Args:
        source: An answer or its draws. Rows of weight zero are left out.
        root: Path without suffix, as `getdist.loadMCSamples(root)` takes it.
        prior: The prior, whose bounds go to `root.ranges`, which getdist's smoothing respects; by default that of the
            answer. Without a prior, all parameters are taken to be unbounded.

    Returns:
        The root.

    Raises:
        ValueError: If there are discrete parameters; if a name has whitespace or ends in `*`, which marks derived
            parameters in getdist; if the prior is of other parameters; or if the folder has other chains of the same
            root, which getdist would read as well.
        OSError: If a file cannot be written.
    """
    draws, root = numbers_of(source, "getdist"), Path(root)
    bad = [name for name in draws.names if re.search(r"\s|\*$", name)]
    if bad:
        raise ValueError(f"getdist takes names without whitespace that do not end in '*', got {bad}; rename them")
    prior = prior_of(source, draws, prior)
    others = re.compile(re.escape(root.name) + r"(_(?!1\.)\d+)?\.txt")
    if found := sorted(file.name for file in root.parent.glob("*.txt") if others.fullmatch(file.name)):
        raise ValueError(f"getdist takes {found} in {root.parent} for chains of {root.name!r} too; choose another root")
    weights = draws.weights.cpu().numpy()
    rows = np.column_stack([weights / weights.max(), np.zeros(len(draws)), draws.theta.detach().cpu().numpy()])
    text = io.StringIO()
    np.savetxt(text, rows[weights > 0], fmt="%.17g" if draws.theta.element_size() > 4 else "%.9g")
    labels = [
        f"{name}{'*' * (name in draws.derived)}\t{_label(draws.labels.get(name, name), unit)}\n"
        for name, unit in zip(draws.names, draws.units, strict=True)
    ]
    write_bytes(_beside(root, ".paramnames"), "".join(labels).encode())
    write_bytes(_beside(root, ".ranges"), _ranges(draws, prior).encode())
    write_bytes(_beside(root, ".properties.ini"), _properties(source).encode())
    write_bytes(_beside(root, "_1.txt"), text.getvalue().encode())
    return root


def _beside(root: Path, end: str) -> Path:
    return root.with_name(root.name + end)


def _properties(source: Answer | Draws) -> str:
    """Text of `root.properties.ini`: independence of the draws, and the verdict, which getdist ignores."""
    lines = ["sampler = uncorrelated", "burn_removed = T"]
    if isinstance(source, Answer):
        lines += [f"sciinf_{name} = {' '.join(words.split())}" for name, words in source.verdict.to_json().items()]
    return "\n".join(lines) + "\n"


def _ranges(draws: Draws, prior: Prior | None) -> str:
    """Text of `root.ranges`: one line per parameter with its name, lower and upper bound; N for no bound."""
    limits = []
    for law in prior.laws if prior is not None else ():
        limits += [(None, None)] * law.event_shape[0] if law.event_shape else [bounds(law)]
    limits += [(None, None)] * (len(draws.names) - len(limits))
    words = [["N" if bound is None else repr(bound) for bound in pair] for pair in limits]
    return "".join(f"{name}\t{low}\t{high}\n" for name, (low, high) in zip(draws.names, words, strict=True))


_LATEX = {**{letter: f"\\{letter}" for letter in " _#%${}"}, "\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim "}
# TeX or matplotlib does not accept these characters in formulas, not even escaped.
_LATEX |= {"&": "and", '"': "''", "`": "'"}


def _label(name: str, unit: str) -> str:
    r"""Label of a parameter in LaTeX, without dollar signs: \mathrm{name}\,[unit]."""
    label = r"\mathrm{" + "".join(_LATEX.get(letter, letter) for letter in name) + "}"
    if not unit:
        return label
    from astropy import units

    return label + r"\,[" + units.Unit(unit).to_string("latex_inline").strip("$") + "]"
