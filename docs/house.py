"""The house, measured and drawn from the code. `python docs/house.py` prints the figures; the site shows the picture.

A floor is a folder of `sciinf/`. An edge is an import of one module by another, inside functions too; a name that an
`__init__.py` offers counts as an import of the module that defines it. Imports for type checkers alone are left out.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
APART = ("emulators", "lab")  # floors that no other floor imports
COMPLEXITY = 15
_ROW, _WIDTH, _LEFT, _RIGHT = 52, 900, 190, 24  # of the picture, in pixels


class House:
    """The modules of the package, what each imports, and on which floor it is.

    Args:
        root: The repository.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        files = sorted((root / "sciinf").rglob("*.py"))
        self.files = {_module(file.relative_to(root)): file for file in files}
        self.trees = {name: ast.parse(file.read_text("utf-8")) for name, file in self.files.items()}
        self.lines = {
            name: len([line for line in file.read_text("utf-8").splitlines() if line.strip()])
            for name, file in self.files.items()
        }
        self.offers = {name: dict(_offered(tree)) for name, tree in self.trees.items() if self._is_door(name)}

    def _is_door(self, name: str) -> bool:
        return self.files[name].name == "__init__.py" or name == "sciinf.wrappers"

    @property
    def order(self) -> list[str]:
        """The floors from the ground up, as the contract on imports has them."""
        contracts = tomllib.loads((self.root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        rows = next(one for one in contracts if one["id"] == "floors")["layers"]
        names = [name.strip(" ()") for row in reversed(rows) for name in row.split("|")]
        return [name for name in names if (self.root / "sciinf" / name).is_dir()]

    def floor(self, module: str) -> str:
        """The floor of a module; an empty text for the doors beside the floors."""
        first = module.split(".")[1] if "." in module else ""
        return first if first in self.order_set else ""

    @cached_property
    def order_set(self) -> frozenset[str]:
        return frozenset(self.order)

    def defined_in(self, module: str, name: str) -> str:
        """The module that an import of a name leads to."""
        if f"{module}.{name}" in self.files:
            return f"{module}.{name}"
        target = self.offers.get(module, {}).get(name)
        return self.defined_in(*target) if target and target[0] in self.files and target[0] != module else module

    @cached_property
    def edges(self) -> set[tuple[str, str]]:
        """Pairs of modules of which the first imports the second."""
        found = set()
        for name, tree in self.trees.items():
            skipped = set(_for_type_checkers(tree))
            for node in ast.walk(tree):
                if node in skipped or not isinstance(node, ast.Import | ast.ImportFrom):
                    continue
                if isinstance(node, ast.ImportFrom) and node.module in self.files:
                    found |= {(name, self.defined_in(str(node.module), alias.name)) for alias in node.names}
                elif isinstance(node, ast.Import):
                    found |= {(name, alias.name) for alias in node.names if alias.name in self.files}
        return {(a, b) for a, b in found if a != b}

    def floor_edges(self) -> Counter[tuple[str, str]]:
        """How many imports lead from each floor to each, doors left out."""
        return Counter((self.floor(a), self.floor(b)) for a, b in self.edges if self.floor(a) and self.floor(b))

    def circles(self) -> list[list[str]]:
        """Sets of modules that import each other around a circle."""
        return [part for part in _components(self.files, self.edges) if len(part) > 1]

    def class_names_twice(self) -> list[str]:
        """Names of more than one class."""
        names = Counter(n.name for tree in self.trees.values() for n in ast.walk(tree) if isinstance(n, ast.ClassDef))
        return sorted(name for name, count in names.items() if count > 1)

    def only_imported_directly(self) -> list[str]:
        """Modules outside `APART` that no command, offered name, estimator, check, pipeline or simulator leads to."""
        begun = {"sciinf.cli"} | {target for door in self.offers.values() for target, _ in door.values()}
        begun |= {
            name for name in self.files if name.startswith(("sciinf.training.estimators.", "sciinf.diagnostics."))
        }
        begun |= {name for name in self.files if name.startswith("sciinf.interfaces.commands.")}
        for file in [*(self.root / "pipelines").rglob("*.py"), *(self.root / "simulators").rglob("*.py")]:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module in self.files:
                    begun |= {self.defined_in(str(node.module), alias.name) for alias in node.names}
        reached, left = set(), begun & set(self.files)
        while left:
            reached |= left
            left = {b for a, b in self.edges if a in left} - reached
        doors_too = {name for name in self.files if self.files[name].name == "__init__.py"}
        others = set(self.files) - reached - doors_too
        return sorted(name for name in others if self.floor(name) and self.floor(name) not in APART)

    def beside_their_only_importer(self) -> list[str]:
        """Modules that one module alone imports, which lies in the same folder."""
        importers: dict[str, set[str]] = {}
        for a, b in self.edges:
            if self.files[a].name != "__init__.py":
                importers.setdefault(b, set()).add(a)
        return sorted(
            b
            for b, those in importers.items()
            if len(those) == 1 and self.files[b].parent == self.files[min(those)].parent
        )

    def share_that_stays(self) -> float:
        """Share of the imports that stay on their floor, among those that are not of core."""
        counted = {pair: n for pair, n in self.floor_edges().items() if pair[1] != "core"}
        return sum(n for (a, b), n in counted.items() if a == b) / sum(counted.values())

    def figures(self) -> Iterator[tuple[str, object]]:
        """What is measured, with its name."""
        without_lab = sum(n for name, n in self.lines.items() if self.floor(name) != "lab")
        yield "floors", len(self.order)
        yield "files", len(self.files)
        yield "lines that are not blank, without lab", f"{without_lab:,}"
        for floor in self.order:
            own = [n for name, n in self.lines.items() if self.floor(name) == floor]
            yield f"  {floor}: files, lines", f"{len(own)}, {sum(own):,}"
        yield "imports that stay on their floor (those of core left out)", f"{self.share_that_stays():.1%}"
        yield "circles, with imports inside functions", [len(part) for part in self.circles()]
        yield "class names twice", len(self.class_names_twice())
        yield f"functions over complexity {COMPLEXITY}", _complex(self.root)
        yield "modules reached by direct import alone, outside emulators and lab", len(self.only_imported_directly())
        yield (
            "names that sciinf offers",
            sum(
                module != "sciinf.core.lazy"
                for module, _ in self.offers["sciinf"].values()
                if module.startswith("sciinf")
            ),
        )
        yield "files beside their only importer", len(self.beside_their_only_importer())

    def picture(self) -> str:
        """The floors as an SVG: a bar for the lines of each, a curve for imports between two. Those of core are left
        out."""
        floors = self.order[::-1]
        lines = {f: sum(n for name, n in self.lines.items() if self.floor(name) == f) for f in floors}
        middle = {floor: _ROW * k + _ROW / 2 for k, floor in enumerate(floors)}
        longest = max(lines.values())
        room = _WIDTH - _LEFT - _RIGHT
        parts = []
        for (a, b), n in sorted(self.floor_edges().items(), key=lambda item: -item[1]):
            if a != b and b != "core":
                reach = 14 + 16 * abs(floors.index(a) - floors.index(b))
                y, end = middle[a] + 6, middle[b] - 6
                curve = f"M{_LEFT - 8} {y} C{_LEFT - 8 - reach} {y} {_LEFT - 8 - reach} {end} {_LEFT - 8} {end}"
                parts.append(
                    f'<path d="{curve}" fill="none" stroke="#5c6bc0" stroke-opacity=".45" '
                    f'stroke-width="{max(0.6, n**0.5 / 2):.1f}"><title>{a} imports {b}: {n}</title></path>'
                )
        for floor in floors:
            y = middle[floor] - _ROW / 2 + 5
            words = (ast.get_docstring(self.trees[f"sciinf.{floor}"]) or "").partition("\n")[0].rstrip(".")
            size = f"{lines[floor]:,} lines"
            bar = room * lines[floor] / longest
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{bar:.0f}" height="{_ROW - 10}" rx="4" fill="#c5cae9"/>')
            parts.append(f'<text x="{_LEFT + 10}" y="{y + 17}" font-weight="bold" fill="#1a237e">{floor}/</text>')
            parts.append(f'<text x="{_LEFT + 120}" y="{y + 17}" fill="#1a237e">{size}</text>')
            parts.append(f'<text x="{_LEFT + 10}" y="{y + 34}" fill="#37474f">{escape(words)}</text>')
        height = _ROW * len(floors)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
            f'font-size="13"><rect width="{_WIDTH}" height="{height}" fill="#fafafa"/>{"".join(parts)}</svg>\n'
        )

    def listing(self) -> str:
        """A table of the files of each floor, with the first line of each docstring, as Markdown."""
        rows = []
        for floor in self.order[::-1]:
            about = ast.get_docstring(self.trees[f"sciinf.{floor}"]) or ""
            rows += [f"## {floor}/", "", about, "", "| file | what |", "|---|---|"]
            for name in sorted(n for n in self.files if self.floor(n) == floor and self.files[n].name != "__init__.py"):
                first = (ast.get_docstring(self.trees[name]) or "").partition("\n")[0].replace("|", "\\|")
                rows.append(f"| `{'/'.join(name.split('.')[2:])}.py` | {first} |")
            rows.append("")
        return "\n".join(["# All files", "", "Each with the first line of what it says of itself.", "", *rows])


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _offered(tree: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def _for_type_checkers(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for part in node.body:
                yield from ast.walk(part)


def _components(nodes: dict[str, Path], edges: set[tuple[str, str]]) -> list[list[str]]:
    """Strongly connected parts of a graph (Tarjan's algorithm)."""
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        after[a].append(b)
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    parts: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in after[name]:
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            place = stack.index(name)
            parts.append(stack[place:])
            del stack[place:]

    sys.setrecursionlimit(10_000)
    for name in after:
        if name not in number:
            visit(name)
    return parts


def _complex(root: Path) -> int:
    """Functions whose cyclomatic complexity, as ruff counts it, is above `COMPLEXITY`."""
    asked = ["check", "sciinf", "--select", "C901", "--config", f"lint.mccabe.max-complexity={COMPLEXITY}"]
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, *asked, "--output-format", "concise"], cwd=root, capture_output=True, text=True)
    return done.stdout.count("C901")


if __name__ == "__main__":
    for name, value in House().figures():
        print(f"{name:70} {value}")
