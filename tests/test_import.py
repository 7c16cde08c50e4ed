"""Importing sciinf: what it offers, what it costs, and that it changes nothing for anybody else."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sciinf

HEAVY = {"torch", "jax", "numpy", "sbi", "astropy", "scipy", "matplotlib", "numpyro", "pandas", "h5py", "click"}
BRIDGES = {"sciinf.interfaces.exports.sbi_posterior"}  # its class must inherit from sbi's; imported only when asked for

# Runs in an interpreter of its own: takes names of modules, prints what of the global state importing them changed.
PROBE = """
import importlib, json, locale, random, signal, sys, threading, warnings
import numpy, torch
before_modules = sys.argv[1].split(",")
modules = sys.argv[2].split(",")
for name in before_modules:
    importlib.import_module(name)

def state():
    cudnn = torch.backends.cudnn
    return {
        "warning filters": repr(warnings.filters),
        "gradients on": torch.is_grad_enabled(),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "torch's random state": torch.get_rng_state().tolist(),
        "numpy's random state": repr(numpy.random.get_state(legacy=False)),
        "Python's random state": repr(random.getstate()),
        "cuDNN": [cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32],
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matrix product precision": torch.get_float32_matmul_precision(),
        "threads of torch": torch.get_num_threads(),
        "default law checks": torch.distributions.Distribution._validate_args,
        "numpy's error state": repr(numpy.geterr()),
        "numpy's printing": repr(numpy.get_printoptions()),
        "locale": locale.setlocale(locale.LC_ALL),
        "signal handlers": [repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "exception hook": repr(sys.excepthook),
        "threads": threading.active_count(),
    }

before = state()
for name in modules:
    importlib.import_module(name)
after = state()
print(json.dumps({
    "changed": [key for key in before if before[key] != after[key]],
    "loaded": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


def modules() -> list[str]:
    """Every module of the package, by its dotted name."""
    folder = Path(sciinf.__file__).parent
    files = sorted(folder.rglob("*.py"))
    parts = [(folder.name, *file.relative_to(folder).with_suffix("").parts) for file in files]
    return [".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts if p[-1] != "__main__"]


def probe(before: list[str], names: list[str], *, folder: Path | None = None) -> dict[str, list[str]]:
    """What importing `names` changes, once `before` are imported."""
    command = [sys.executable, "-c", PROBE, ",".join(before), ",".join(names)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def foreign_imports() -> list[str]:
    """Packages of others that the modules of sciinf import as they are imported, whose own doings are not ours."""
    found = set()
    for file in Path(sciinf.__file__).parent.rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module)
    return sorted(name for name in found if name.split(".")[0] not in ("sciinf", "__future__"))


@pytest.mark.slow
def test_importing_every_module_changes_nothing_global() -> None:
    report = probe(foreign_imports(), modules())
    assert report["changed"] == []


@pytest.mark.slow
def test_importing_every_module_loads_no_package_that_only_some_functions_use() -> None:
    light = [name for name in modules() if name not in BRIDGES]
    report = probe(["sys"], light)
    assert not {"jax", "sbi", "numpyro", "astropy", "matplotlib", "pandas", "arviz"} & set(report["loaded"])


@pytest.mark.slow
def test_a_module_that_meddles_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "meddling.py").write_text(
        "import warnings, random, torch, numpy\n"
        "warnings.filterwarnings('ignore')\ntorch.set_grad_enabled(False)\ntorch.manual_seed(0)\nnumpy.random.seed(0)\n"
        "random.seed(0)\ntorch.set_default_dtype(torch.float64)\ntorch.backends.cudnn.benchmark = True\n"
    )
    report = probe(["sys"], ["meddling"], folder=tmp_path)
    assert set(report["changed"]) >= {
        "warning filters",
        "gradients on",
        "default dtype",
        "torch's random state",
        "numpy's random state",
        "Python's random state",
        "cuDNN",
    }


def test_import_sciinf_alone_is_next_to_free() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import sciinf"]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.count("|") == 2]
    loaded = {row[2].strip().split(".")[0] for row in rows}
    assert "sciinf" in loaded
    assert not loaded & HEAVY
    microseconds = next(int(row[1]) for row in rows if row[2].strip() == "sciinf")
    assert microseconds < 500_000


@pytest.mark.parametrize("name", sciinf.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(sciinf, name)
    assert value is not None
    assert name in dir(sciinf)


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    tree = ast.parse(Path(sciinf.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {a.name: str(n.module) for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert sorted(seen) == sorted(sciinf.__all__)
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(sciinf, name)


def test_no_exported_name_hides_a_module() -> None:
    folder = Path(sciinf.__file__).parent
    files = {p.stem for p in folder.glob("*.py")} | {p.name for p in folder.iterdir() if (p / "__init__.py").is_file()}
    assert files & set(sciinf.__all__) <= {"wrappers"}  # which is itself that module
    for name in files - {"__init__", "__main__"}:
        module = importlib.import_module(f"sciinf.{name}")
        assert getattr(sciinf, name) is module


@pytest.mark.parametrize(
    "package",
    [
        "emulators",
        "emulators.processes",
        "emulators.tokens",
        "interfaces.exports",
        "networks.flows",
        "networks.summaries",
        "training",
        "wrappers",
    ],
)
def test_packages_offer_their_parts(package: str) -> None:
    module = importlib.import_module(f"sciinf.{package}")
    assert {getattr(module, name).__name__ for name in module.__all__} == set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"no attribute 'Spline'; it offers .*{module.__all__[0]}"):
        module.Spline


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Priors'; it offers .*Prior"):
        sciinf.Priors


def test_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert sciinf.__version__ == version("sciinf")


def test_the_package_can_be_run_as_the_command() -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "sciinf", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(sciinf.__version__)
