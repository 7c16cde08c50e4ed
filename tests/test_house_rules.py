"""The rules of the house that a reader of the source can check, checked by reading the source.

A rule takes a parsed file and yields what is against it, as "line: message". Each has a plant, source that it must
object to.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("sciinf", "simulators", "pipelines", "benchmarks", "tests", "docs")
PROSE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "Makefile", "pyproject.toml", ".ci/run")

LINES, BODY, PARAMETERS = 600, 50, 7
HEAVY = {
    "jax",
    "sbi",
    "numpyro",
    "astropy",
    "matplotlib",
    "scipy",
    "pandas",
    "arviz",
    "rich",
    "pebble",
    "dask",
    "distributed",
}
HEAVY = {"jax", "sbi", "numpyro", "astropy", "matplotlib", "scipy", "pandas", "arviz", "rich", "pebble"}
HEAVY |= {"dask", "distributed"}
BRIDGES = {
    "sciinf/interfaces/exports/sbi_posterior.py"
}  # its class must inherit from sbi's; imported only when asked for
TO_WORKERS = {"sciinf/campaigns/sent.py"}  # hands a simulator that has no file to its own processes; never a file
OF_TENSORS = {
    "sciinf/core/observation_arrays.py"
}  # an observation in a .pt file, by torch.load(weights_only=True) alone
READERS_OF_PAGES = {
    "tests/documents.py",
    "tests/docs/test_latent.py",
    "tests/docs/test_equations.py",
    "tests/docs/test_processes.py",
    "tests/docs/test_reference.py",
    "tests/notebooks.py",
}  # run their code
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
LUMBER = {"utils", "util", "common", "helpers", "misc", "config", "registry"}
FOR_SIMULATORS = (
    "sciinf.core",
    "sciinf.wrappers",
    "sciinf.simulators.wrappers",
    "sciinf.simulators.dynamics",
    "sciinf.networks.summaries",
    "sciinf.simulators.poses",
    "sciinf.networks",
)
MACHINE = re.compile(r"(?<![\w.~])/(work|root|home|Users|tmp)(?=/\w)")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A file: its path below the repository, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def shipped(self) -> bool:
        return self.path.startswith("sciinf/")


def read(path: Path) -> Source:
    text = path.read_text()
    return Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text))


@cache
def sources() -> list[Source]:
    return [read(f) for folder in FOLDERS for f in sorted((ROOT / folder).rglob("*.py")) if f.is_file()]


@cache  # most rules walk through every file
def nodes(tree: ast.AST) -> list[ast.AST]:
    return list(ast.walk(tree))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in nodes(tree) if isinstance(node, Function))


@cache
def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in nodes(tree) if isinstance(node, ast.Call)]


def line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of what an import statement brings in."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def on_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when a module is imported."""
    for node in body:
        if isinstance(node, Function) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from on_import(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from on_import(handler.body)


# --- the rules --------------------------------------------------------------------------------------------------


def short_files(source: Source) -> Iterator[str]:
    count = len(source.text.splitlines())
    if count > LINES:
        yield f"{count}: {count} lines, at most {LINES}: send a part of it down to a shelf"


def short_functions(source: Source) -> Iterator[str]:
    for function in functions(source.tree):
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        count = (function.end_lineno or 0) - body[0].lineno + 1 if body else 0
        if count > BODY:
            yield f"{function.lineno}: the body of {function.name} has {count} lines, at most {BODY}"


def short_signatures(source: Source) -> Iterator[str]:
    """At most seven parameters; what a user calls may have more, as long as no more than seven must be given."""
    for function in functions(source.tree):
        a = function.args
        every = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
        defaults = len(a.defaults) + sum(d is not None for d in a.kw_defaults)
        count = len(every) - (defaults if for_users(source.path, function) else 0)
        if count > PARAMETERS:
            yield f"{function.lineno}: {function.name} has {count} parameters, at most {PARAMETERS}; pass built objects"


def for_users(path: str, function: Function) -> bool:
    """Constructors, wrappers, commands, pipelines and the verbs of sciinf itself."""
    import sciinf
    import sciinf.posteriors

    command = any(".command" in ast.unparse(d) for d in function.decorator_list)
    wrapper = path.startswith(("sciinf/simulators/wrappers/", "sciinf/lab/")) and not function.name.startswith("_")
    verbs = {*sciinf.__all__, *sciinf.posteriors.__all__}
    return command or wrapper or function.name in ("__init__", "run", *verbs)


def no_hasattr(source: Source) -> Iterator[str]:
    for name, node in calls(source.tree):
        if name == "hasattr":
            yield f"{node.lineno}: hasattr; give the class the attribute, or a method with an answer"


def no_code_from_data(source: Source) -> Iterator[str]:
    for node in nodes(source.tree):
        for name in imported(node):
            if name.split(".")[0] in PICKLES and not source.path.startswith("tests/") and source.path not in TO_WORKERS:
                yield f"{line(node)}: imports {name}; nothing is pickled"
    for name, node in calls(source.tree):
        picklish = any(k.arg == "allow_pickle" and getattr(k.value, "value", True) for k in node.keywords)
        if name == "exec" and source.path in READERS_OF_PAGES:
            continue
        only = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
        if name == "torch.load" and only and source.path in OF_TENSORS:
            continue
        if name in ("eval", "exec", "torch.load") or (name.endswith(".load") and picklish):
            yield f"{node.lineno}: {name} can run code that a file brings; use safetensors, JSON or HDF5"


def light_imports(source: Source) -> Iterator[str]:
    for node in on_import(source.tree.body):
        for name in imported(node):
            if source.shipped and name.split(".")[0] in HEAVY and source.path not in BRIDGES:
                yield f"{node.lineno}: imports {name} with the module; import it inside the functions that use it"


def no_assert(source: Source) -> Iterator[str]:
    if source.shipped:
        for node in nodes(source.tree):
            if isinstance(node, ast.Assert):
                yield f"{node.lineno}: assert is gone under python -O; raise ValueError or TypeError"


def annotated(source: Source) -> Iterator[str]:
    if not source.shipped:
        return
    scopes = [source.tree, *(n for n in nodes(source.tree) if isinstance(n, ast.ClassDef))]
    for function in (n for scope in scopes for n in scope.body if isinstance(n, Function)):
        if function.name.startswith("_") and not function.name.startswith("__"):
            continue
        a = function.args
        every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bare = [p.arg for p in every if p.annotation is None and p.arg not in ("self", "cls")]
        bare += ["return"] if function.returns is None else []
        if bare:
            yield f"{function.lineno}: {function.name} lacks annotations of {', '.join(bare)}"


def future_annotations(source: Source) -> Iterator[str]:
    defines = any(isinstance(node, Function | ast.ClassDef) for node in nodes(source.tree))
    if defines and not source.path.startswith("docs/") and "from __future__ import annotations" not in source.text:
        yield "1: lacks `from __future__ import annotations`"


def simulators_know_little(source: Source) -> Iterator[str]:
    """A simulator may use the contracts, the wrappers, the integrators and the networks."""
    import sciinf

    allowed = {"sciinf", "sciinf.wrappers"} | {f"sciinf.{n}" for n in sciinf.__all__ if core_or_wrappers(n)}
    for node in nodes(source.tree):
        for name in imported(node):
            if not source.path.startswith("simulators/") or name.split(".")[0] != "sciinf":
                continue
            if name not in allowed and not any(f"{name}.".startswith(f"{p}.") for p in FOR_SIMULATORS):
                yield f"{line(node)}: a simulator imports {name}; it may use {', '.join(FOR_SIMULATORS)}"


def core_or_wrappers(name: str) -> bool:
    import sciinf.core

    return name == "wrappers" or name in sciinf.core.__all__


def no_machine_paths(source: Source) -> Iterator[str]:
    for number, row in enumerate(source.text.splitlines(), 1):
        if MACHINE.search(row):
            yield f"{number}: names a path of one machine: {row.strip()}"


RULES: dict[str, Callable[[Source], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        short_files,
        short_functions,
        short_signatures,
        no_hasattr,
        no_code_from_data,
        light_imports,
        no_assert,
        annotated,
        future_annotations,
        simulators_know_little,
        no_machine_paths,
    )
}

_SLASH = "/"
PLANTS = [
    ("short_files", "sciinf/a.py", "x = 1\n" * 601),
    ("short_functions", "simulators/a.py", "def f():\n    'Doc.'\n" + "    x = 1\n" * 51),
    ("short_signatures", "sciinf/a.py", "def f(a, b, c, d, *, e, f, g, h): ..."),
    ("short_signatures", "sciinf/a.py", "def f(a, b=1, c=1, d=1, e=1, f=1, g=1, h=1): ..."),
    ("short_signatures", "sciinf/a.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, h): ..."),
    ("no_hasattr", "sciinf/a.py", "hasattr(a, 'b')"),
    ("no_code_from_data", "sciinf/a.py", "def f():\n    import pickle"),
    ("no_code_from_data", "sciinf/a.py", "from joblib import load"),
    ("no_code_from_data", "sciinf/a.py", "torch.load(p, weights_only=True)"),
    ("no_code_from_data", "sciinf/core/observation_arrays.py", "torch.load(p)"),
    ("no_code_from_data", "sciinf/core/observation_arrays.py", "torch.load(p, weights_only=False)"),
    ("no_code_from_data", "sciinf/a.py", "np.load(p, allow_pickle=True)"),
    ("no_code_from_data", "sciinf/a.py", "eval('1')"),
    ("light_imports", "sciinf/a.py", "try:\n    import jax.numpy as jnp\nexcept ImportError:\n    pass"),
    ("light_imports", "sciinf/a.py", "from scipy import stats"),
    ("no_assert", "sciinf/a.py", "def f(x):\n    assert x"),
    ("annotated", "sciinf/a.py", "def f(x) -> int: ..."),
    ("annotated", "sciinf/a.py", "class A:\n    def f(self, x: int): ..."),
    ("annotated", "sciinf/a.py", "def f(*x, **y) -> int: ..."),
    ("future_annotations", "sciinf/a.py", "class A: ..."),
    ("simulators_know_little", "simulators/a.py", "def f():\n    from sciinf.training import train"),
    ("simulators_know_little", "simulators/a.py", "from sciinf import Flow"),
    ("no_machine_paths", "tests/a.py", f"x = '{_SLASH}home{_SLASH}me'"),
]
INNOCENT = '''
"""Doc."""
from __future__ import annotations
from typing import TYPE_CHECKING
import torch
from sciinf import Prior, wrappers
from sciinf.core import Simulator
if TYPE_CHECKING:
    import jax
class A:
    def __init__(self, a: int, b: int = 1, c: int = 1, d: int = 1, e: int = 1, f: int = 1, g: int = 1) -> None:
        import scipy
        model.eval()
        numpy.load(path, allow_pickle=False)
    def _hidden(self, x): ...
'''


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str) -> None:
    found = [f"{source.path}:{message}" for source in sources() for message in RULES[rule](source)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(("rule", "path", "text"), PLANTS)
def test_rule_objects_to(rule: str, path: str, text: str) -> None:
    assert list(RULES[rule](Source(path, text, ast.parse(text))))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("folder", ["sciinf", "simulators"])
def test_rule_lets_pass(rule: str, folder: str) -> None:
    assert list(RULES[rule](Source(f"{folder}/a.py", INNOCENT, ast.parse(INNOCENT)))) == []


# --- rules about more than one file ---------------------------------------------------------------------------------


def heirs_of_concrete_classes(files: list[Source]) -> Iterator[str]:
    """A class is either abstract (it names ABC among its bases, or is a Protocol) or nobody's base."""
    abstract = {"ABC", "Protocol"}
    classes = [(s, n) for s in files for n in ast.walk(s.tree) if isinstance(n, ast.ClassDef)]
    bases = {id(node): [ast.unparse(b).split("[")[0].split(".")[-1] for b in node.bases] for _, node in classes}
    concrete = {node.name: source.path for source, node in classes if not abstract & set(bases[id(node)])}
    for source, node in classes:
        for base in set(bases[id(node)]) & set(concrete):
            yield f"{source.path}:{node.lineno}: {node.name} inherits from {base} ({concrete[base]}), which is concrete"


def lumber_rooms(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if LUMBER & {part.removesuffix(".py") for part in path.split("/")}:
            yield f"{path}: a folder or file is named for what it holds, not {', '.join(sorted(LUMBER))}"


CALLED = {"neuralop": "neuraloperator"}  # imported under another name than it is installed by


def undeclared(files: list[Source], project: str) -> Iterator[str]:
    """Packages that sciinf imports anywhere and pyproject.toml does not name."""
    import sys

    declared = {re.split(r"[^\w-]", row.strip(' "'))[0].lower() for row in project.splitlines() if '"' in row}
    for source in files:
        for node in nodes(source.tree):
            for name in (n.split(".")[0] for n in imported(node)):
                asked = {name.lower(), CALLED.get(name, name)}
                if name not in {*sys.stdlib_module_names, "sciinf"} and not asked & declared:
                    yield f"{source.path}:{line(node)}: imports {name}, which pyproject.toml does not ask for"


@pytest.mark.slow
def test_classes_are_abstract_or_final() -> None:
    found = list(heirs_of_concrete_classes([s for s in sources() if s.shipped]))
    assert not found, "\n" + "\n".join(found)


def test_folders_are_named_for_what_they_hold() -> None:
    found = list(lumber_rooms([source.path for source in sources()]))
    assert not found, "\n" + "\n".join(found)


def test_every_package_used_is_asked_for() -> None:
    found = list(undeclared([s for s in sources() if s.shipped], (ROOT / "pyproject.toml").read_text()))
    assert not found, "\n" + "\n".join(found)


def test_prose_names_no_path_of_one_machine() -> None:
    files = [ROOT / name for name in PROSE] + sorted((ROOT / "docs").rglob("*.md"))
    texts = [Source(f.name, f.read_text(), ast.Module([], [])) for f in files if f.is_file()]
    found = [f"{text.path}:{message}" for text in texts for message in no_machine_paths(text)]
    assert not found, "\n" + "\n".join(found)


def test_rules_about_several_files_object_to_plants() -> None:
    base = "class Base(ABC): ...\nclass Leaf(Base): ...\n"
    heir = "from sciinf.a import Leaf\nclass Twig(Leaf): ...\n"
    files = [Source(p, t, ast.parse(t)) for p, t in (("sciinf/a.py", base), ("sciinf/b.py", heir))]
    assert [message.split(":")[0] for message in heirs_of_concrete_classes(files)] == ["sciinf/b.py"]
    assert list(lumber_rooms(["sciinf/utils/a.py", "sciinf/core/a.py", "sciinf/misc.py"]))[1].startswith(
        "sciinf/misc.py"
    )
    text = "import torch, json\nimport leftpad"
    assert list(undeclared([Source("sciinf/a.py", text, ast.parse(text))], 'x = [\n  "torch>=2",\n]')) == [
        "sciinf/a.py:2: imports leftpad, which pyproject.toml does not ask for"
    ]


def twice(found: list[Source]) -> list[str]:
    """Names of classes that two files have, or one file twice."""
    names = [node.name for source in found for node in nodes(source.tree) if isinstance(node, ast.ClassDef)]
    return sorted(name for name in set(names) if names.count(name) > 1)


def test_no_class_name_stands_twice() -> None:
    assert twice([source for source in sources() if source.shipped]) == []
    assert twice([Source("sciinf/a.py", "", ast.parse("class One: ...\nclass One: ..."))]) == ["One"]
