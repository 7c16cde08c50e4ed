"""The tutorials and guides can be followed: every block of them runs, one after the other, in an empty folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from brief import briefly_trained
from documents import FEW, blocks, fewer, follow

import sciinf.lab
from sciinf import load_answer, load_answers
from sciinf.campaigns import Store
from sciinf.core.simulator import load_module

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
TUTORIALS = DOCS / "tutorials"
FOLLOWED = {  # by a test of this folder
    "README.md",
    "docs/choosing.md",
    "docs/clusters.md",
    "docs/data_format.md",
    "docs/exports.md",
    "docs/lab.md",
    "docs/units_and_coordinates.md",
    *(
        f"docs/api/{name}.md"
        for name in ("laws", "simulate", "train", "ask", "further", "processes", "latent", "equations")
    ),
    *(f"docs/tutorials/{name}.md" for name in ("first_answer", "your_own_simulator", "external_program")),
    *(f"docs/tutorials/{name}.md" for name in ("many_observations", "from_sbi", "which_model", "hidden_states")),
    "docs/tutorials/surveys.md",
}

FEWER_CELLS = {
    "range(12)": "range(3)",
    "k == 11": "k == 2",
    "(len(rate), 11)": "(len(rate), 2)",
    "(11, 10)": "(2, 10)",
    "[:11]": "[:2]",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder as the current one, with the simulators of the repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulators").symlink_to(ROOT / "simulators")
    return tmp_path


@pytest.fixture
def quickly_compiled() -> Iterator[None]:
    """JAX compiles without most of its optimisations: here compiling takes longer than simulating."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def unfollowed(pages: dict[str, str]) -> set[str]:
    """Pages with blocks to run that no test runs."""
    return {page for page, text in pages.items() if {"python", "sh"} & {kind for kind, _ in blocks(text)}} - FOLLOWED


def test_every_page_with_blocks_is_followed() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    texts = {page.relative_to(ROOT).as_posix(): page.read_text() for page in pages}
    assert not unfollowed(texts)
    assert set(texts) >= FOLLOWED
    assert unfollowed({"docs/new.md": "```sh\nsciinf --help\n```\n"}) == {"docs/new.md"}  # the fault


def test_fewer_simulations_are_asked_for_where_a_page_names_many() -> None:
    assert fewer("infer(s, x, n=20_000)") == "infer(s, x, n=300)"
    assert fewer("sciinf infer s.py -n 5000 --calibration 4000") == "sciinf infer s.py -n 300 --calibration 300"
    assert fewer("simulate(s, 'runs', 10_000, seed=1)") == "simulate(s, 'runs', 300, seed=1)"


def test_newcomer_does_what_the_readme_says(tmp_path: Path) -> None:
    newcomer = load_module(ROOT / "benchmarks" / "newcomer.py")
    found = newcomer.steps((ROOT / "README.md").read_text())
    assert [kind for kind, _ in found] == ["save", "python", "sh", "sh", "sh"]
    toy = "## Your simulator\n```python\n# a.py\nb = 1\n```\n```sh\ncat a.py\n```\n```python\n1 / 0\n```\n## Next\n"
    assert [step for step, _ in newcomer.followed(tmp_path, newcomer.steps(toy))] == ["save a.py", "cat a.py"]
    with pytest.raises(subprocess.CalledProcessError):  # the fault: a step that does not work
        newcomer.followed(tmp_path, [("sh", "cat nowhere")])
    with pytest.raises(ValueError, match="no section"):
        newcomer.steps("# Nothing\n")


@pytest.mark.pages
@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_first_answer_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, names = follow((TUTORIALS / "first_answer.md").read_text(), monkeypatch)
    assert [words[1] for words in commands] == ["infer", "query"]
    first, other = load_answer("runs/flu", name="influenza_1978"), load_answer("runs/flu", name="other_school")
    assert first.amortised
    assert names["draws"].shape == (FEW, 3)
    # 1.3 per day against 1.73 +- 0.05: the likelihood tells them apart, however little the network has learned
    assert other.parameters["beta"].median < first.parameters["beta"].median
    gallery, simulator = load_module(DOCS / "gallery.py"), names["simulator"]
    gallery.save(gallery.beside(first, simulator, simulator.prior.names), here / "flu.png")
    assert 10_000 < (here / "flu.png").stat().st_size <= gallery.LARGEST


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(2)
def test_tutorial_can_be_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, names = follow((DOCS / "tutorials" / "your_own_simulator.md").read_text(), monkeypatch)
    assert [words[1] for words in commands] == ["check", "infer", "query", "infer"]
    printed = capsys.readouterr().out
    assert "no problem found" in printed
    # 2.2 mV in a file of microvolts; the noise of 0.1 mV is drawn from a fixed seed
    assert re.search(r"cell8 \(50,\) 2\.[0-4] mV at first", printed)
    assert names["odd"].trust.level == "alarm"
    assert (here / "cell8.ecsv").is_file()
    known = load_answer(here / "runs" / "known")
    assert known.amortised
    assert abs(known.parameters["rate"].median - 0.736) < 0.03  # 0.736 +- 0.018 on a grid of the exact posterior
    assert known.parameters["rate"].sd == pytest.approx(0.018, rel=0.2)


@pytest.mark.pages
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler, cc, to build the example with")
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_external_program_can_be_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (TUTORIALS / "external_program.md").read_text()
    commands, names = follow(text, monkeypatch, few=120)
    assert [words[:2] for words in commands] == [
        ["cc", "-O2"],
        *[["sciinf", verb] for verb in ("check", "check", "infer")],
    ]
    printed = capsys.readouterr().out
    for line in re.findall(r"^    ((?:read|brightness) .*)$", text.split("## 4.")[0], re.MULTILINE):
        assert line in printed, "the page prints what the command prints"
    assert str(names["draws"]["width"].unit) == "d"
    assert abs(names["answer"].parameters["peak"].median - 33) < 5  # d, of a prior from 20 to 60


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_many_observations_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TUTORIALS / "many_observations.md").read_text()
    for long, short in FEWER_CELLS.items():
        assert long in text
        text = text.replace(long, short)
    commands, names = follow(text, monkeypatch, few=120)
    assert [words[1] for words in commands] == ["infer", "query"]
    cells = {f"cell{k:02}" for k in range(3)}
    assert {path.name for path in (here / "runs" / "cells" / "answers").iterdir()} == cells
    assert load_answer("runs/cells", name="cell02").trust.level != "good", "its amplifier is faulty"
    assert names["draws"].shape[1:] == (3, 2)
    assert load_answer("runs/repeats").observation["v"].shape == (5, 10)
    assert names["answer"].observation["v"].shape == (2, 10)


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_the_page_on_clusters_can_be_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, _ = follow((DOCS / "clusters.md").read_text(), monkeypatch, few=2_400)
    verbs = ["simulate", "work", "work", "check", "train", "calibrate", "compact"]
    assert [words[1] for words in commands] == verbs
    printed = capsys.readouterr().out
    assert "sciinf work" in printed, "the plan prints what workers are started with"
    assert "no damage" in printed
    assert len(Store(here / "balls")) == 2_400
    assert (here / "runs" / "ball" / "fit" / "fit.json").is_file()


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_surveys_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (TUTORIALS / "surveys.md").read_text()
    for long, short in {"(3000, ": "(300, ", "[:100]": "[:10]", "v[107]": "v[107]"}.items():
        assert long in text
        text = text.replace(long, short)
    commands, names = follow(text, monkeypatch, few=300)
    assert [words[1] for words in commands] == ["simulate", "train", "calibrate", "query", "simulate", "query"]
    answers = names["answers"]
    assert len(answers) == len(names["table"]) == 300
    assert answers.column("status")[200] == "not finite"
    assert answers.columns["rate_q50"] == "1 / h" or answers.columns["rate_q50"] == "1/h"
    odd = answers.column("p_value")[:10]
    assert (odd < 0.05).mean() > 0.7, "these amplifiers are faulty; few simulations see it"
    assert (here / "survey.fits").is_file()
    assert "intervals of rate hold" in load_answers("known").summary()


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_which_model_can_be_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (TUTORIALS / "which_model.md").read_text()
    commands, names = follow(text, monkeypatch)
    assert [words[1] for words in commands] == ["check", "infer", "query"]
    printed = capsys.readouterr().out
    assert "no problem found" in printed
    for line in re.findall(r"^    (\(.*\)|tensor.*)$", text, re.MULTILINE):
        assert line in printed, "the page prints what Python prints"
    # the likelihood corrects what few simulations teach: P(two) is 0.596 by 20,000 of them, with an error of 0.004
    assert names["model"]["two"] == pytest.approx(0.596, abs=0.1)
    assert names["two"].draws.names == ("fast", "slow", "share")
    assert not names["table"].isna().any().any()
    assert names["either"].prior.names == ("model", "fading.fast", "steady.level")
    twice = load_answer("runs/clearance", name="twice")
    assert any(check.level == "alarm" for check in twice.checks), "no listed model has a second dose"


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_hidden_states_can_be_followed(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (TUTORIALS / "hidden_states.md").read_text()
    fewer_draws = text.replace("--budget 20000", "--budget 2000").replace("-n 10000", "-n 10000 --ess 300")
    commands, names = follow(fewer_draws, monkeypatch)
    assert [words[1] for words in commands] == ["check", "infer", "query", "infer"]
    assert names["visited"].paths["birds"].times.tolist() == names["when"]
    printed = capsys.readouterr().out
    assert "no problem found" in printed
    for line in re.findall(r"^    (\(40, 2\)|256|tensor.*|\d+,\d+,\d)$", text, re.MULTILINE):
        assert line in printed + Path("lake.csv").read_text(), "the page prints what Python prints"
    # the likelihood corrects what few simulations teach; by 10,000 of them the medians are 120 and 0.309
    level, swing = (names["answer"].parameters[name] for name in ("level", "swing"))
    assert abs(level.median - 120) < level.sd
    assert abs(swing.median - 0.309) < swing.sd
    path = names["path"]
    inside = (path.interval[:, 0] < names["birds"]) & (names["birds"] < path.interval[:, 1])
    assert inside.mean() > 0.7, "bands of 90 %, of one record and few effective draws"
    typo = load_answer("runs/herons", name="typo")
    assert any(check.level == "alarm" for check in typo.checks), "a count is ten times what it was"
    assert typo.parameters["swing"].median > 1.5 * swing.median


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_the_page_for_users_of_sbi_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (TUTORIALS / "from_sbi.md").read_text()
    whole = page.replace('out="runs/mine")', 'out="runs/mine", refine="off", progress=False)')  # rounds take minutes
    assert whole != page
    names = follow(whole, monkeypatch)[1]
    assert names["log_prob"].shape == (1000,)
    assert names["calibration"].gaps
    for found in (load_answer(here / "runs" / "mine"), names["answer"]):
        assert found.calibration is not None
        assert found.calibration.state in ("passed", "cannot tell", "not passed")
        assert found.trust.level == "good"
        assert abs(found.parameters["theta_0"].median - 0.8) < 0.4  # few simulations; the exact law is N(0.8, 0.3)
    assert (names["mode"] - torch.tensor([0.8, -0.4])).abs().max() < 0.5


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(20)
def test_exports_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = follow((DOCS / "exports.md").read_text(), monkeypatch)[1]
    assert names["table"]["slope"].unit == "m / s"
    assert names["samples"].getParamNames().list() == ["slope", "offset"]
    assert len(names["result"].posterior) == len(names["frame"]) == len(names["answer"].draws)
    assert names["draws"].shape == (100, 2)


def test_units_page_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = follow((DOCS / "units_and_coordinates.md").read_text(), monkeypatch)[1]
    assert torch.allclose(names["seen"]["flux"], torch.tensor([0.31, 0.42, 0.48, 0.46]))
    assert names["counts"].coords["species"] == ("hare", "lynx")


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(40)
def test_lab_can_be_followed_and_shows_what_it_offers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "lab.md").read_text()
    names = follow(text, monkeypatch, few=100)[1]
    assert names["flows"].shape[0] == 2
    assert [name for name in sciinf.lab.__all__ if name not in text] == []


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained(40)
def test_choosing_can_be_followed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = follow((DOCS / "choosing.md").read_text(), monkeypatch, few=100)[1]
    assert names["posterior"].prior.names == names["equation"].prior.names
