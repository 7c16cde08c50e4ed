"""Pages of the site that are not Markdown in docs/: the README, the pipelines, the skeletons, the notebooks."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
WIDE = "---\nhide: [navigation]\n---\n"  # a page without the list of pages beside it
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
PLAIN = ("LICENSE", "CITATION.cff")
FEWER = {  # how pictures were made of pipelines that take long; docs/gallery.py draws them
    "influenza": "--simulations 20000",
    "darcy_inverse": "--solutions 500 --simulations 5000 --runs 5000",
    "navier_stokes": "--solutions 100 --epochs 20",
    "coal_mines": "--simulations 60000 --fresh 3000",
    "two_epidemics": "--fresh 4000",
}
FOUND = {  # what the run of a picture got wrong
    "coal_mines": "A network that saw so few records is far from the posterior: calibration is a WARNING, and a "
    "million draws were worth 3,547. The weights mend most of it. The exact probabilities, by a sum over all places of "
    "the changes, are 0, 0.128, 0.399 and 0.473; those of the picture are within 0.006 of them.",
    "darcy_inverse": "Not all of that run came out right. The true conductivities are 4 and 12. The 90 % interval of "
    "`low`, 3.40 to 5.09, holds its truth; that of `high`, 8.14 to 11.2, does not. The fresh simulations were too few "
    "to tell whether that is more than chance: calibration is UNKNOWN.",
    "kolmogorov": "The posterior of that run is too wide. Its generator learned from 800 solutions, and its draws are "
    "widened by what they miss: of 500 runs of the solver the 70 % interval of `strength` held 79 %, and calibration "
    "is a WARNING.",
}


def on_files(files: Files, config: Any) -> Files:
    """Add them."""
    found = {page: _moved((ROOT / name).read_text()) for name, page in PAGES.items()}
    found["index.md"] = WIDE + found["index.md"]
    found |= {name: (ROOT / name).read_text() for name in PLAIN}
    pipelines = [file for file in sorted((ROOT / "pipelines").glob("*.py")) if not file.stem.startswith("_")]
    found |= {f"gallery/{file.stem}.md": page_of(file, ROOT / "docs" / "images") for file in pipelines}
    found["gallery/index.md"] = _gallery(pipelines)
    skeletons = sorted((ROOT / "docs" / "skeletons").glob("*.py"))
    found |= {f"skeletons/{file.stem}.md": page_of(file) for file in skeletons}
    found["skeletons/index.md"] = _contents("Files to copy", "Copy one of these and fill it in.", skeletons)
    books = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    found |= {f"notebooks/{path.stem}.md": notebook_page(json.loads(path.read_text())) for path in books}
    house = _house()
    found |= {"house.md": house.listing(), "images/house.svg": house.picture()}
    for name, text in found.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages in docs/ to the one that lies above it, and to notebooks, which are pages here; all checks."""
    markdown = markdown.replace("<!-- further checks -->", _further_checks(markdown))
    above = "/" not in page.file.src_uri
    markdown = markdown.replace("](../CONTRIBUTING.md", "](CONTRIBUTING.md") if above else markdown
    return re.sub(r"\]\((\.\./notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)


def _house() -> Any:
    """The package as `docs/house.py` reads it."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.House(ROOT)


def _further_checks(markdown: str) -> str:
    """Diagnostics that a page does not describe, with the questions that they ask."""
    from sciinf.diagnostics.discovery import every_diagnostic

    others = [one for one in every_diagnostic() if f"| {one.name} |" not in markdown]
    return "".join(f"- **{one.name}**: {one.question}\n" for one in others)


def _moved(text: str) -> str:
    """The links of a page that lies beside docs/, for one that lies in it."""
    return re.sub(r"\]\(docs/(skeletons)\)", r"](\1/index.md)", text).replace("](docs/", "](")


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def page_of(file: Path, pictures: Path | None = None) -> str:
    """A file of code as a page: what it says of itself, its picture, and the code."""
    first, _, rest = _docstring(file).partition("\n")
    folder = file.parent.relative_to(ROOT).as_posix()
    picture = pictures is not None and (pictures / f"{file.stem}.png").is_file()
    shown = f"![{first}](../images/{file.stem}.png)\n\n" if picture else ""
    if file.stem in FEWER:
        shown += f"The picture is of fewer simulations than the pipeline makes by itself: `{FEWER[file.stem]}`.\n\n"
    if file.stem in FOUND:
        shown += f"{FOUND[file.stem]}\n\n"
    words = re.sub(r"^    (?=\S)", "        ", rest, flags=re.MULTILINE)
    code = f'```python title="{folder}/{file.name}"\n{file.read_text()}```\n'
    return f"# {file.stem}\n\n{first}\n\n{shown}{words}\n\n{code}"


def _gallery(pipelines: list[Path]) -> str:
    """What each pipeline finds out, with its picture, two beside each other."""
    cards = []
    for file in pipelines:
        first, name = _docstring(file).partition("\n")[0], file.stem
        cards.append(
            f"-   [**{name}**]({name}.md)\n\n    {first}\n\n    [![{first}](../images/{name}.png)]({name}.md)\n"
        )
    words = "Whole analyses, a file each, in `pipelines/`. `sciinf run pipelines/NAME.py --out runs/NAME` runs one."
    return "\n".join([WIDE + "# Gallery", "", words, "", '<div class="grid cards" markdown>', "", *cards, "</div>", ""])


def _contents(title: str, words: str, files: list[Path]) -> str:
    rows = [f"| [{file.stem}]({file.stem}.md) | {_docstring(file).partition(chr(10))[0]} |" for file in files]
    return "\n".join([f"# {title}", "", words, "", "| file | what |", "|---|---|", *rows, ""])


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook as a page: its words, its code, and what the cells gave."""
    return "\n\n".join(part.strip("\n") for cell in notebook["cells"] for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    if cell["cell_type"] == "markdown":
        yield "".join(cell["source"])
        return
    yield f"```python\n{''.join(cell['source'])}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield f'<img alt="{escape("".join(cell["source"]))}" src="data:image/png;base64,{data["image/png"]}">'
        elif "text/html" in data:
            yield "".join(data["text/html"])
        else:
            yield "```text\n" + "".join(output.get("text") or data["text/plain"]).rstrip("\n") + "\n```"
