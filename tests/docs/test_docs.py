"""The documents do what they say: Python and commands run, links lead somewhere, the skeletons work."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brief import briefly_trained
from documents import FEW, command, follow
from torch.distributions import Normal

import sciinf
from sciinf import Observable, Prior, Simulator, build_posterior, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core.simulator import load_module
from sciinf.interfaces.answer import load_answer
from sciinf.wrappers import Sensors, observed

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
SKELETONS = DOCS / "skeletons"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links and pictures of a page whose files do not exist."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    local = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:", t)]
    made = {DOCS / name for name in ("house.md", "images/house.svg", "skeletons/index.md")}  # by docs/hooks.py
    return [t for t in local if t and not (page.parent / t).exists() and page.parent / t not in made]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_readme_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, names = follow((ROOT / "README.md").read_text(), monkeypatch)
    assert [words[1] for words in commands] == ["check", "infer", "query"]
    assert names["draws"].shape == (1000, 2)
    assert names["table"].attrs["units"] == {"rate": "1/h", "amplitude": "mV"}
    assert len(Store(here / "runs/decay/simulations")) == FEW, "the call found what the command had made"
    folder = here / "runs" / "decay"
    listed = re.findall(r"^\| (`.*?) \|", (DOCS / "data_format.md").read_text().split("## A run folder")[1], re.M)
    for name in re.findall(r"`([^`]+)`", " ".join(listed[:7])):
        assert (folder / name.replace("NAME", "cell8")).exists(), f"docs/data_format.md says a run holds {name}"
    answer = load_answer(folder, name="cell8")
    assert answer.parameters["rate"].unit == "1/h"
    # cell8 was made with a rate of 1.6, cell7 with 0.7: few simulations are enough to tell them apart
    assert abs(answer.parameters["rate"].median - 1.6) < 0.5


def test_a_page_of_the_gallery_says_how_its_picture_was_made_and_what_it_got_wrong() -> None:
    pytest.importorskip("mkdocs", reason="the site is made with mkdocs, of the extra `docs`")
    hooks = load_module(DOCS / "hooks.py")
    for name in hooks.FEWER | hooks.FOUND:
        page = hooks.page_of(ROOT / "pipelines" / f"{name}.py", DOCS / "images")
        assert f"../images/{name}.png" in page
        assert hooks.FEWER.get(name, "") in page
        assert hooks.FOUND.get(name, "") in page


def test_format_page_reads_a_store(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = faulty_store(here / "store")
    _, names = follow((DOCS / "data_format.md").read_text(), monkeypatch)
    theta, x, digest = names["read_store"](here / "store")
    good = store.load()
    assert digest == store.digest
    assert np.array_equal(theta, good.theta.numpy())
    assert set(x) == set(good.x)
    assert all(np.array_equal(x[name], good.x[name].numpy()) for name in x)
    assert 0 < len(theta) < len(store), "some rows failed, and are left out"
    assert store.compact().blocks
    assert list(store.path.glob("packs/*.tar"))
    assert names["read_store"](here / "store")[2] == digest


def test_format_page_reads_a_block_that_no_journal_knows_and_refuses_a_damaged_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = faulty_store(here / "store")
    _, names = follow((DOCS / "data_format.md").read_text(), monkeypatch)
    for journal in (store.path / "journal").iterdir():
        torn = journal.read_bytes().splitlines()[0][:-20]
        journal.write_bytes(torn)
    assert names["read_store"](store.path)[2] == store.digest == Store(store.path).digest
    data = bytearray(store.file(1).read_bytes())
    where = data.find(store.read(1)[0].numpy().tobytes()[:16])
    data[where] ^= 1
    store.file(1).write_bytes(bytes(data))
    with pytest.raises((AssertionError, OSError)):
        names["read_store"](store.path)


def test_format_page_names_every_file_dataset_and_attribute(here: Path) -> None:
    import h5py

    page = (DOCS / "data_format.md").read_text()
    store = faulty_store(here / "store")
    found: set[str] = set()
    with h5py.File(store.file(0)) as file:
        found |= set(file.attrs)
        file.visititems(lambda name, item: found.update({name, *item.attrs}))
    found -= {"x", "messages", *(f"x/{name}" for name in store.observables)}
    missing = [name for name in sorted(found) if f"`{name}`" not in page]
    assert not missing


def faulty_store(path: Path) -> Store:
    """250 rows in blocks of 100, two observables of different dtypes, some rows failed."""
    (path.parent / "sometimes.py").write_text(SOMETIMES)
    with pytest.warns(UserWarning, match="failed"):
        return simulate(load_simulator(path.parent / "sometimes.py"), path, 250, block=100, seed=3, progress=False)


SOMETIMES = """
from torch.distributions import Uniform
from sciinf import Observable, Prior, wrappers

def counts(rate, rng):
    if rate > 9:
        raise RuntimeError("too hot")
    return {"n": rng.poisson(rate, size=3), "level": float("nan") if rate < 1 else rate}

observables = {"n": Observable((3,), "", ("item",), dtype="int64"), "level": Observable((), "V")}
simulator = wrappers.numpy(counts, Prior(rate=(Uniform(0.0, 10.0), "1/s")), observables)
"""


def test_skeleton_simulator_passes_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    command(["sciinf", "check", str(SKELETONS / "simulator.py")], monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_skeleton_pipeline_runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--simulations", str(FEW), "--fresh", str(FEW)]
    command(["sciinf", "run", str(SKELETONS / "pipeline.py"), "--out", "runs/mine", *small], monkeypatch)
    assert (here / "runs" / "mine" / "report.html").is_file()
    answer = load_answer(here / "runs" / "mine")
    assert {name: e.unit for name, e in answer.parameters.items()} == {"rate": "1/h", "amplitude": "mV"}


def test_skeleton_equation_solves_its_equation_and_sensors_see_it() -> None:
    equation: Any = load_simulator(SKELETONS / "field_equation.py")
    theta = torch.tensor([[0.01, 0.3], [0.05, 0.9]])
    wave = (4 * torch.pi * equation.grid.coordinates[0]).sin().expand(2, 1, -1)
    found = equation.solve(theta, {"initial": wave})
    decay = -(theta[:, 0] * (4 * torch.pi) ** 2 + theta[:, 1])[:, None] * torch.tensor(equation.times)
    assert torch.allclose(found[:, :, 0], decay.exp()[..., None] * wave, atol=0.01)
    x = equation(theta, generator=torch.Generator().manual_seed(0))
    left = equation.residual(x["u"].double(), theta, x).square().mean().sqrt()
    wrong = equation.residual(x["u"].double(), theta.flip(0), x).square().mean().sqrt()  # the fault: other parameters
    assert float(left) < 0.3 * float(wrong)
    seen = observed(equation, Sensors([0.1, 0.6], sd=0.1))
    assert seen.observables["y"] == Observable((5, 2), "K", ("time", "sensor"))


class Scale(Simulator):
    """Two weights, each weighed once: theta ~ N(0, diag(1, 4)), x = theta + e, e ~ N(0, 0.5^2)."""

    name = "scale"
    prior = Prior(first=(Normal(0.0, 1.0), "kg"), second=(Normal(0.0, 2.0), "kg"))
    observables = {"x": Observable((2,), "kg")}

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.5 * torch.randn(theta.shape, generator=generator)}


@pytest.mark.slow
def test_skeleton_estimator_finds_a_gaussian_posterior(here: Path) -> None:
    # The skeleton's family holds the posterior, N(x v / (v + 1/4), v / (4 v + 1)) for a prior variance of v, so what is
    # left is training. All seeds are fixed: there is no false alarm on one kind of machine, and the bounds are wide.
    simulator = Scale()
    estimator = load_module(SKELETONS / "estimator.py").build(simulator.prior, simulator.observables, seed=1)
    store = simulate(simulator, here / "store", 5_000, progress=False)
    fit = train(estimator, store, here / "fit", recipe=sciinf.Recipe(epochs=15, batch=100, learning_rate=2e-2))
    generator = torch.Generator().manual_seed(5)
    x = simulator(simulator.prior.sample(20, generator=generator), generator=generator)["x"]
    variance = torch.tensor([1.0, 4.0])
    mean, sd = x * variance / (variance + 0.25), (variance / (4 * variance + 1)).sqrt()
    posterior = build_posterior(fit)
    draws = posterior.sample_batched(4_000, {"x": x}, generator=generator)
    assert float(((draws.mean(0) - mean) / sd).abs().max()) < 0.25
    assert float((draws.std(0) / sd - 1).abs().max()) < 0.1
    theta = torch.stack([mean, mean + sd])
    exact = torch.distributions.Normal(mean, sd).log_prob(theta).sum(-1)
    found = posterior.log_prob_batched(theta, {"x": x})
    assert torch.allclose(found.float(), exact, atol=0.3)
    assert torch.allclose(posterior.log_prob_batched(theta.double(), {"x": x}), found.double(), atol=1e-4)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page, page.read_text())


def test_readme_has_two_commands_which_the_makefile_knows() -> None:
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^ {4}make (\w+)", text, re.MULTILINE)
    assert lines == ["demo", "test"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(lines) <= set(targets)
    for file in re.findall(r"sciinf run (\S+)", text):
        assert (ROOT / file).is_file()
    assert set(re.findall(r"'\.\[(\w+)\]'", (DOCS / "installation.md").read_text())) == {"cluster", "objects", "test"}


def test_pictures_are_small_and_every_pipeline_has_one() -> None:
    pictures = {file.stem: file.stat().st_size for file in (DOCS / "images").iterdir()}
    assert {file.stem for file in (ROOT / "pipelines").glob("[!_]*.py")} <= set(pictures)
    assert max(pictures.values()) <= 60_000


def test_planted_faults_are_found_out(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "choosing.md"
    assert broken_links(page, "[gone](no_such_page.md) and [there](design.md)") == ["no_such_page.md"]
    with pytest.raises(NameError):
        follow("```python\nno_such_name\n```\n", monkeypatch)
    with pytest.raises(SystemExit):
        follow("```sh\nsciinf no-such-verb\n```\n", monkeypatch)


def stuck(text: str) -> list[str]:
    """Headings without an empty line before them."""
    return re.findall(r"\S\n(#{2,5} .*)", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE))


def twice(text: str) -> list[str]:
    """What two rows of a table in turn begin with."""
    names = [row.split("|")[1].strip() if row.startswith("| `") else "" for row in text.splitlines()]
    return [name for name, below in pairwise(names) if name and name == below]


def test_headings_stand_by_themselves_and_each_file_once_in_the_design() -> None:
    assert not {page.name: found for page in PAGES if (found := stuck(page.read_text()))}
    assert not twice((DOCS / "design.md").read_text())
    assert stuck("At last.\n### Rollouts\n") == ["### Rollouts"]  # the faults
    assert twice("| `nets/` | networks |\n| `nets/` | more |\n") == ["`nets/`"]
