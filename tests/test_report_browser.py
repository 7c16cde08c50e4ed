"""Reports as a browser shows them on a wide and on a narrow screen, looked at and used by a script.

Pages of seven kinds: eight parameters with counts along years, two parameters with a series, a vector and a picture,
three observables beside each other, twenty parameters, an answer that fails every check, three observations, and two of
five parameters each.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, inspect_pages
from sample_run import EVIL, Bands, Counts, Sample, make_run

from sciinf.core.draws import Draws
from sciinf.core.estimates import estimates
from sciinf.core.files import write_json
from sciinf.interfaces.draws_file import read_draws_h5, write_draws_h5
from sciinf.interfaces.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome, to look at pages"),
]

WIDE, NARROW = 1400, 400
EIGHT = ("alpha", "beta", "gamma", "delta", "hare_0", "lynx_0", "sigma_hare", "sigma_lynx")
LONG = ("a_parameter_with_a_very_long_name_that_goes_on", EVIL, "x", "coefficient_of_drag", "log10_mass")
KINDS = ("counts", "fields", "bands", "twenty", "failing", "several", "pair")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    samples = {
        "counts": Sample(EIGHT, ("1/yr",) * 4 + ("",) * 4, Counts),
        "fields": Sample(),
        "bands": Sample(EIGHT, ("1/yr",) * 4 + ("",) * 4, Bands, {"alpha": "births of <b>hares</b>", "beta": "β"}),
        "twenty": Sample(tuple(f"coefficient_{i}" for i in range(20)), ("km s-1 Mpc-1", "") * 10, Counts),
        "failing": Sample(LONG, ("1/h",) * 5, Counts),
        "several": Sample(("rate", "size", "age"), ("1/h", "", "yr"), Counts),
        "pair": Sample(EIGHT[:5], ("1/yr",) * 5, Counts),
    }
    made = {name: make_run(folder / name, sample) for name, sample in samples.items()}
    fail(made["failing"])
    ask_about(made["several"], "cell7", "cell8", EVIL.replace("/", "_"))
    ask_about(made["pair"], "lake", "forest")
    for run in made.values():
        write_report(run)
    return made


@pytest.fixture(scope="module")
def found(runs, tmp_path_factory) -> dict[str, Any]:
    pages = {name: (run / "report.html").read_text() for name, run in runs.items()}
    said = inspect_pages(pages, (WIDE, NARROW), tmp_path_factory.mktemp("browser"))
    assert "error" not in said, said
    return said


def fail(run: Path) -> None:
    about = json.loads((run / "answer.json").read_text())
    names = ("local check", "residuals", "failures", "strange data", "prior bounds")
    words = "it is not so: 'v' at time 2.5 h to 3.7 h is drifting, by 67.1 sds of that (p = 0.001); look at it"
    about["checks"] = [{"name": name, "level": "alarm", "verdict": words} for name in names]
    about |= {"trust": {"p_value": 0.001, "verdict": "unlike", "level": "alarm"}, "pareto_k": 0.95}
    write_json(run / "answer.json", about)
    command = f"sciinf infer decay.py --observation '{EVIL}.csv' --out runs/{'very_' * 20}long -n 4000"
    provenance = json.loads((run / "provenance.json").read_text())
    write_json(run / "provenance.json", {**provenance, "next": f"next: {command} (about 12 min more)"})


def ask_about(run: Path, *observations: str) -> None:
    draws = read_draws_h5(run / "draws.h5")
    about = json.loads((run / "answer.json").read_text())
    for index, name in enumerate(observations):
        inside = run / "answers" / name
        inside.mkdir(parents=True)
        moved = Draws(draws.names, draws.units, draws.theta * (1 + 0.2 * index), draws.log_weight)
        write_draws_h5(moved, inside / "draws.h5")
        shutil.copy(run / "predictive.h5", inside)
        said = {n: e.to_json() for n, e in estimates(moved, 0.9).items()}
        write_json(inside / "answer.json", {**about, "parameters": said, "amortised": {}, "pareto_k": None})
    for name in ("answer.json", "draws.h5", "predictive.h5"):
        (run / name).unlink()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_too_wide_too_small_or_cut(found, kind, width):
    """Folded, with all that opens opened, and with as many parameters chosen as there is room for."""
    said = found[f"{kind} {width}"]
    assert said["scripted"]
    assert (said["wide"], said["small"], said["cut"]) == ([], [], [])


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_without_its_script_each_answer_follows_its_verdict(found, width):
    assert all(found[f"{kind} {width}"]["plain"] for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_page_is_two_screens_high(found, kind):
    extra = 100 if kind == "failing" else 0  # a long command, and nothing but bad checks
    assert found[f"{kind} {WIDE}"]["height"] <= 1800 + extra


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_smaller_than_800_kilobytes(runs, kind):
    assert (runs[kind] / "report.html").stat().st_size < 800_000


def test_the_inspection_sees_what_is_planted(runs, tmp_path):
    """The planted faults: a box wider than the page, small print, and a label beyond its drawing."""
    page = (runs["fields"] / "report.html").read_text()
    page = page.replace("<main>", '<main><div style="width:2000px;font-size:9px">small print</div>')
    page = page.replace('<div class="drawing narrow"><svg', '<div class="drawing narrow"><svg height="20"')
    page = re.sub(r"<text ([^>]*)>", r'<text dx="-400" \1>', page)
    said = inspect_pages({"bad": page}, (NARROW,), tmp_path)[f"bad {NARROW}"]
    assert any("small print" in words for words in said["wide"])
    assert any("small print" in words for words in said["small"])
    assert said["cut"]


def test_the_numbers_of_each_level_are_those_of_all_draws(found, runs):
    draws = read_draws_h5(runs["counts"] / "draws.h5")
    shown = found[f"counts {WIDE}"]["used"]["levels"]
    assert list(shown) == ["68%", "90%", "95%"]
    for words, level in zip(shown, (0.68, 0.9, 0.95), strict=True):
        low, middle, high = (draws.quantile(q) for q in ((1 - level) / 2, 0.5, (1 + level) / 2))
        for d, text in enumerate(shown[words]):
            median, above, below = (part.replace("−", "-") for part in re.split(r"\+| −", text))
            places = len(median.partition(".")[2])
            assert float(median) == pytest.approx(float(middle[d]), abs=0.51 * 10**-places)
            assert float(above) == pytest.approx(float(high[d] - middle[d]), rel=0.051)
            assert float(below) == pytest.approx(float(middle[d] - low[d]), rel=0.051)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_keys_alone_select_draws_in_all_panels_and_in_the_prediction(found, width):
    said = found[f"counts {width}"]["used"]
    assert said["focused"]
    count, of = re.fullmatch(r"(\d+) of (\d+) draws selected\.", said["selected"]).groups()
    assert 10 < int(count) < int(of) == 1000
    assert said["bands"] == 2 * 2  # two species, drawn for a wide and for a narrow screen
    assert said["dots"] == 8 * 7 / 2
    assert said["after"] == "0"


def test_what_selected_draws_predict_lies_along_a_logarithmic_axis(found):
    """Frequencies that are even in their logarithm are as far from each other in the page as on the paper."""
    for line in found[f"bands {WIDE}"]["used"]["lines"][2:4]:  # of a narrow and a wide screen
        across = np.array(re.findall(r"[-\d.]+", line), float).reshape(24, 2)[:, 0]
        np.testing.assert_allclose(np.diff(across), (across[-1] - across[0]) / 23, atol=0.11)
        assert across[-1] - across[0] > 150


def test_a_parameter_is_taken_out_and_put_back(found):
    assert found[f"counts {WIDE}"]["used"]["panels"] == [6, 3]  # three of the chips were left chosen, then two


def test_a_window_that_changes_takes_no_parameter_out_of_a_hidden_answer(found):
    assert found[f"several {WIDE}"]["used"]["hidden"] == [False, 3]


def test_files_made_in_the_page_can_be_read(found, runs):
    from astropy.table import Table

    files = found[f"counts {WIDE}"]["used"]["files"]
    kinds = {name.partition("_")[2] for name in files}
    assert kinds >= {"draws.csv", "draws.ecsv", "table.tex", "references.bib", "prediction.svg", "posterior.svg"}
    text = {name.partition("_")[2]: text for name, text in files.items()}
    table = Table.read(text["draws.ecsv"], format="ascii.ecsv")
    draws = read_draws_h5(runs["counts"] / "draws.h5")
    assert table.colnames == list(EIGHT)
    assert str(table["alpha"].unit) == "1 / yr"
    assert "1000 of 3000 draws, resampled to equal weight, rounded" in table.meta["comments"][0]
    near = np.abs(np.array(table["beta"])[:20, None] - draws.theta[:, 1].numpy()[None]).min(1)
    assert near.max() < 1e-3 * float(draws.sd()[1])
    plain = np.loadtxt(io.StringIO(text["draws.csv"]), delimiter=",", skiprows=1)
    np.testing.assert_array_equal(plain[:, 1], table["beta"])
    assert text["draws.csv"].startswith("alpha [1/yr],beta [1/yr]")
    assert "sigma\\_lynx & $" in text["table.tex"]
    assert "central 95% interval" in text["table.tex"]  # the level that was chosen last
    assert text["references.bib"].count("@misc{") >= 5


def test_drawings_are_whole_files_in_light_colours(found):
    from xml.etree import ElementTree

    files = found[f"fields {WIDE}"]["used"]["files"]
    drawings = {name: ElementTree.fromstring(text) for name, text in files.items() if name.endswith(".svg")}
    assert len(drawings) == 3 + 1
    for drawing in drawings.values():
        assert drawing.tag.endswith("svg")
        assert "--ink: #1b1f24" in ElementTree.tostring(drawing, encoding="unicode")
