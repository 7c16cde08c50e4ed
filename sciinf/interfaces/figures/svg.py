"""Conversion of a figure to SVG for an HTML page, with unique identifiers, theme colours and the page's own font."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from sciinf.interfaces.figures.style import VARIABLES, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_COLOUR = re.compile(r"(fill|stroke): (#[0-9a-f]{6})\b")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_DRAWN = ("d", "x", "y", "transform", "points")


def to_svg(figure: Figure, alt: str, key: str) -> str:
    """The `<svg>` element of a figure, as text.

    Args:
        figure: Figure to convert.
        alt: Text that describes the figure to readers who do not see it.
        key: Word that no other figure of the page has, used as a prefix of identifiers.

    Returns:
        The element, without namespace, style sheet or anything to fetch. All sizes scale with its width.
    """
    root = ElementTree.fromstring(_rendered(figure))
    _strip(root)
    used = {match for element in root.iter() for match in _references(element)}
    for element in root.iter():
        _rewrite(element, key, used)
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": box, "role": "img", "aria-label": alt, "style": f"--w:{float(box.split()[2]) / 0.75:.0f}px"}
    )
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def places(figure: Figure, axes: Sequence[Axes]) -> list[list[float]]:
    """Positions of axes in the drawing that `to_svg` made of their figure, so that the page's script can draw in them.

    Returns:
        For each of the axes a list of 12 numbers:

        - left, top, width and height, in units of the drawing,
        - both x limits and both y limits,
        - 1 if the y scale is "log", else 0, and the same for the x scale,
        - for the y scale "symlog", which has a place for 0: the value up to which the axis is linear, and the length of
          this linear part in decades; otherwise 0 and 0.
    """
    found = []
    for one in axes:
        whole, box = _whole(figure), one.get_position()
        wide, high = figure.get_size_inches()
        left, top = wide * box.x0 - whole.x0, whole.y1 - high * box.y1
        corner = [float(f"{72.0 * inches:.6g}") for inches in (left, top, wide * box.width, high * box.height)]
        logs = [float(scale == "log") for scale in (one.get_yscale(), one.get_xscale())]
        transform: Any = one.yaxis.get_transform()
        linear = [float(transform.linthresh), transform.linscale / 0.9] if one.get_yscale() == "symlog" else [0.0, 0.0]
        found.append([*corner, *map(float, (*one.get_xlim(), *one.get_ylim())), *logs, *linear])
    return found


def _rendered(figure: Figure) -> bytes:
    """SVG file that matplotlib writes for a figure, without the date and the names of programs."""
    image = io.BytesIO()
    with look():
        _laid_out(figure)
        about = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(image, format="svg", metadata=about, bbox_inches=_whole(figure), pad_inches=0)
    return image.getvalue()


def _laid_out(figure: Figure) -> None:
    """Compute the layout of a figure once, and switch the layout engine off.

    Otherwise each drawing would compute the layout again, which takes longer than drawing the lines.
    """
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def _whole(figure: Figure) -> Bbox:
    """Bounding box of a figure in inches: its page, and labels that extend beyond the page."""
    from matplotlib.transforms import Bbox

    return Bbox.union([Bbox.from_bounds(0, 0, *figure.get_size_inches()), figure.get_tightbbox()])


def _strip(parent: ElementTree.Element) -> None:
    """Remove namespaces, metadata and style sheets from an element.

    HTML needs none of them, and a style sheet would apply to the whole page.
    """
    parent.tag = parent.tag.rpartition("}")[2]
    for name in [n for n in parent.attrib if "}" in n]:
        parent.attrib[name.rpartition("}")[2]] = parent.attrib.pop(name)
    for child in list(parent):
        if child.tag.rpartition("}")[2] in ("metadata", "style"):
            parent.remove(child)
        else:
            _strip(child)
    if parent.tag != "text" and parent.text and not parent.text.strip():
        parent.text = None
    parent.tail = None


def _references(element: ElementTree.Element) -> list[str]:
    found = _REFERENCE.findall(" ".join(element.attrib.values()))
    link = element.attrib.get("href", "")
    return [*found, link[1:]] if link.startswith("#") else found


def _rewrite(element: ElementTree.Element, key: str, used: set[str]) -> None:
    attributes = element.attrib
    if attributes.get("id") in used:
        attributes["id"] = f"{key}-{attributes['id']}"
    else:
        attributes.pop("id", None)
    if attributes.get("href", "").startswith("#"):
        attributes["href"] = f"#{key}-{attributes['href'][1:]}"
    for name, value in list(attributes.items()):
        if name in _DRAWN:
            value = _NUMBER.sub(_scaled if name == "transform" else _drawn, value)
            value = " ".join(value.split())
        attributes[name] = _REFERENCE.sub(rf"url(#{key}-\1)", value)
    if "style" in attributes:
        attributes["style"] = _style(attributes["style"])


def _drawn(found: re.Match[str]) -> str:
    """Text of a coordinate, rounded to a tenth of a point."""
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _scaled(found: re.Match[str]) -> str:
    """Text of a number in a transform, rounded to hundredths."""
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _style(style: str) -> str:
    """CSS style with theme variables for colours, and without a font family.

    The page's own font then applies, so that numbers in figures and in tables look alike.
    """
    style = re.sub(r"font-family: [^;]+(; )?", "", style)
    return _COLOUR.sub(lambda m: f"{m[1]}: var(--{VARIABLES[m[2]]})" if m[2] in VARIABLES else m[0], style)
