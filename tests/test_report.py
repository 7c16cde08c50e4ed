"""The report says what the run folder holds, says what it lacks, and never takes markup from data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from command_line import call
from sample_run import EVIL, Page, Sample, make_run

from sciinf.core.files import write_json
from sciinf.interfaces.draws_file import read_draws_h5
from sciinf.interfaces.figures.answers import answers_table, every_number
from sciinf.interfaces.figures.first_screen import verdict_part
from sciinf.interfaces.figures.numbers import latex, numbers_of
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.figures.verdicts import verdict_of
from sciinf.interfaces.report import write_report
from sciinf.interfaces.run_answers import point_to_refined


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"))
    write_report(folder, truth={"rate": 1.0})
    return folder


def read(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_page_says_everything_in_order(complete):
    page = read(complete)
    order = [
        "decay",
        "25 November 2025",
        "Rely on this answer: its draws are weighted by the simulator's likelihood.",
        "✓ calibration ✓ trust ✓ weights",
        "Data and prediction",
        "Posterior",
    ]
    order += ["Answer", "All numbers", "Checks", "How it was made", "Training", "Simulations", "Provenance"]
    order += ["Methods text", "To cite, and BibTeX"]
    place = 0
    for words in order:
        place = page.text.index(words, place)
    for words in (
        "h⁻¹",
        "40 values of v [mV]",
        "0.91",
        "0.56 to 1.50",
        "uncorrected",
        "Log evidence −12.500 ± 0.030; its constant is not confirmed.",
        "sciinf infer decay.py --observation 'cell 7.csv'",
        "0123abcd",
        "1 min 1 s",
        "1 h 6 min",
        "neural posterior estimation",
        "https://arxiv.org/abs/1804.06788",
        "ran longer than 60 s",
    ):
        assert words in page.text, words
    assert page.tags.count("figure") == 3 + 2 + 1


def test_held_out_simulations_are_not_called_trained_on(complete, tmp_path):
    assert "60 epochs on 597 simulations, those held out included, batches of 50" in read(complete).text
    assert "in the coordinates that the network learns them in, unbounded and standardised" in read(complete).text
    shutil.copytree(complete / "fit", tmp_path / "fit")
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    fit["store"]["held_out"] = 60
    write_json(tmp_path / "fit" / "fit.json", fit)
    write_report(tmp_path)
    assert "60 epochs on 537 simulations, with 60 more held out, batches of 50" in read(tmp_path).text
    fit["store"]["followed"] = {"standardised_by": 240}
    write_json(tmp_path / "fit" / "fit.json", fit)
    write_report(tmp_path)
    assert "60 more held out, read as they came; the data are standardised by the first 240, b" in read(tmp_path).text


def test_the_training_is_told_as_it_was(complete, tmp_path):
    """Validated every fourth epoch, on rows made meanwhile, with an average of the weights chosen afterwards."""
    assert "The weights of epoch 45 were kept" in read(complete).text
    shutil.copytree(complete / "fit", tmp_path / "fit")
    rows = (tmp_path / "fit" / "history.csv").read_text().splitlines()
    (tmp_path / "fit" / "history.csv").write_text("\n".join([rows[0], *rows[4::4]]) + "\n")
    fit = json.loads((tmp_path / "fit" / "fit.json").read_text())
    online = {"rows": 5010, "used": 5000, "held_out": 100, "online": True, "reuse": 3}
    chosen = {"average": "average of relative width 0.1, up to epoch 40", "best_validation_loss": -1.5}
    write_json(tmp_path / "fit" / "fit.json", {**fit, **chosen, "store": online})
    write_report(tmp_path)
    text = read(tmp_path).text
    assert "60 epochs on 4,900 simulations made meanwhile and used up to 3 times each, with 100 more held out" in text
    assert "The average of the weights of relative width 0.1, up to epoch 40 was kept: validation loss −1.500" in text
    write_json(tmp_path / "fit" / "fit.json", {**fit, "recipe": {"ema": 0.999}})
    write_report(tmp_path)
    assert "The running average of the weights at epoch 44 was kept" in read(tmp_path).text


def test_the_page_needs_no_network_and_runs_its_own_script_alone(complete):
    html, page = (complete / "report.html").read_text(), read(complete)
    assert not {"link", "iframe", "object", "base", "form"} & set(page.tags)
    assert re.findall(r"<script[^>]*>", html) == ['<script type="application/json" id="data">', "<script>"]
    script = html[html.index("<script>") + len("<script>") : html.rindex("</script>")]
    assert script == files("sciinf.interfaces.figures").joinpath("report.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v for k, v in page.attributes if k == "content" and v and v.startswith("default-src"))
    allowed = f"style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    assert policy == f"default-src 'none'; {allowed}"
    fetched = [v for k, v in page.attributes if k in ("src", "href", "srcset", "data", "poster") and v]
    assert all(v.startswith(("#", "data:image/png;base64,")) for v in fetched)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_the_data_block_is_data_whatever_is_in_it(tmp_path):
    """The planted fault: a name that would end the block, and one that would begin another."""
    names = ("</script><script>alert(1)</script>", "<!-- <script>")
    make_run(tmp_path, Sample(names=names, units=("1/h", "")))
    html = write_report(tmp_path).read_text()
    assert len(re.findall(r"<script", html)) == len(re.findall(r"</script>", html)) == 2
    block = html[html.index('id="data">') + len('id="data">') :]
    one = json.loads(block[: block.index("</script>")])["answers"][0]
    assert one["names"] == list(names)
    assert one["units"] == ["1/h", ""]


def test_draws_on_the_page_are_fewer_rounded_and_of_equal_weight(complete):
    one = data_of(complete)["answers"][0]
    draws = read_draws_h5(complete / "draws.h5")
    assert one["of"] == 3000
    assert one["weighted"]
    found = np.array(one["draws"])
    assert found.shape == (1000, 2)
    sd = draws.sd().numpy()
    assert (np.abs(found.mean(0) - draws.mean().numpy()) < 4 * sd / np.sqrt(min(draws.ess, 1000))).all()
    near = np.abs(found[:50, None] - draws.theta.numpy()[None]).max(2).min(1)
    assert near.max() < 1e-3 * sd.max()
    assert len(one["from"]) == len(one["predicted"][0][0]["rows"]) >= 40
    assert one["predicted"][1:] == [[], []]


def data_of(folder: Path) -> dict:
    html = (folder / "report.html").read_text()
    block = html[html.index('id="data">') + len('id="data">') :]
    return json.loads(block[: block.index("</script>")])


def test_identifiers_are_unique_and_figures_have_alternatives(complete):
    page = read(complete)
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    images = sum(1 for k, v in page.attributes if (k, v) == ("role", "img"))
    assert images == sum(1 for k, v in page.attributes if k == "aria-label" and v and v != "Verdict")


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_the_page_is_light_and_dark_small_and_reproducible(complete):
    path = complete / "report.html"
    before = path.read_bytes()
    assert b"prefers-color-scheme:dark" in before
    assert len(before) < 800_000
    write_report(complete, truth={"rate": 1.0})
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_strings_from_outside_are_never_markup(tmp_path):
    """The planted fault: a parameter, a failure message, a unit-free name and a command that try to be markup."""
    names = (EVIL, "a & b", "$\\frac{", '"><img src=x onerror=alert(1)>')
    make_run(tmp_path, Sample(names=names, units=("", "1/h", "", "")))
    about = json.loads((tmp_path / "provenance.json").read_text())
    write_json(tmp_path / "provenance.json", {**about, "command": EVIL, "versions": {EVIL: EVIL}, EVIL: EVIL})
    page = Page(write_report(tmp_path).read_text())
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    assert page.text.count(EVIL) > 6
    assert "$\\frac{" in page.text


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_twenty_parameters_make_a_page_below_800_kilobytes(tmp_path):
    names = tuple(f"parameter_{i}" for i in range(20))
    path = write_report(make_run(tmp_path, Sample(names=names, units=("km s-1 Mpc-1",) * 20)))
    assert path.stat().st_size < 800_000
    page = Page(path.read_text())
    assert "km s⁻¹ Mpc⁻¹" in page.text
    assert sum((k, v) == ("class", "p") for k, v in page.attributes) == 20 * 21 / 2


def test_an_answer_that_holds_for_one_observation_says_so(complete, tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "scope": "not amortised: it holds for no other"})
    assert "Not amortised: it holds for no other. Intervals are central" in Page(write_report(folder).read_text()).text
    assert "amortised: it holds" not in read(complete).text


def test_truth_must_name_parameters_of_the_answer(tmp_path):
    with pytest.raises(ValueError, match=r"truth is given for \['rat'\].*'rate'"):
        write_report(make_run(tmp_path), truth={"rat": 1.0})


@pytest.mark.slow
def test_the_next_command_stands_below_the_verdict_until_all_is_well(tmp_path):
    folder = make_run(tmp_path)
    about = json.loads((folder / "provenance.json").read_text())
    command = f"sciinf infer decay.py --observation '{EVIL}.csv' -n 1200"
    lines = f"next: {command} (about 3 min 2 s more)\nnext, for cell7: infer(..., refine='auto') (up to 3 x 600)"
    write_json(folder / "provenance.json", {**about, "next": lines})
    write_report(folder)
    assert "-n 1200" not in read(folder).text  # it can be relied on
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "pareto_k": 0.9})
    write_report(folder)
    text = read(folder).text
    assert f"Next: {command} (about 3 min 2 s more)" in text
    assert "Next, for cell7: infer(..., refine='auto') (up to 3 x 600)" in text


def test_a_way_on_that_is_no_command_is_a_sentence(tmp_path):
    """The planted fault: advice with a button that copies it."""
    folder = make_run(tmp_path)
    about = json.loads((folder / "provenance.json").read_text())
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "pareto_k": 0.9})
    ways = ("look at the data: more simulations cannot help", "sciinf infer a.py", "infer(..., n=9)")
    write_json(folder / "provenance.json", {**about, "next": "\n".join(f"next: {way}" for way in ways)})
    run = next(iter(read_runs(folder).values()))
    html = verdict_part(run, verdict_of(run))
    assert "Next: look at the data: more simulations cannot help.</p>" in html
    assert re.findall(r'<code id="next(\d)">(.*?)</code> <button [^>]*data-copy="next(\d)"', html) == [
        ("1", ways[1], "1"),
        ("2", ways[2], "2"),
    ]
    assert html.count("<button") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("pictures")
def test_labels_stand_where_people_read_and_names_where_programs_do(tmp_path):
    labels = {"amplitude": f"peak {EVIL} & more"}
    folder = make_run(tmp_path, Sample(labels=labels))
    html = write_report(folder).read_text()
    page = Page(html)
    table, corner = (html[html.index(f'<section id="{key}"') :] for key in ("numbers", "posterior"))
    written = "peak &lt;script&gt;alert(1)&lt;/script&gt; &amp; more"
    assert f'{written} <code class="own">amplitude</code>' in table
    chip, title, scale = (f"<span{kind}>{written}</span>" for kind in ("", ' class="name"', ' class="label"'))
    assert all(one in corner for one in (chip, title, scale))
    assert "parameter label unit median" in page.text
    assert page.tags.count("script") == 2
    one = data_of(folder)["answers"][0]
    assert one["names"] == ["amplitude", "rate"]
    assert "peak \\textless{}script" in one["latex"][1]
    runs = read_runs(folder)
    answers = answers_table(runs, {name: verdict_of(run) for name, run in runs.items()})
    assert f"{written} [mV]</th>" in answers


@pytest.mark.slow
def test_a_page_shows_the_refined_answer_and_links_to_the_one_that_it_replaces(tmp_path):
    run, near, inside = refined_run(tmp_path / "run")
    write_report(run)
    assert "posterior: refined" in read(run).text
    assert "posterior: amortised" not in read(run).text
    assert links(run) == ["answers/cell7/report.html"]
    assert "Refined by simulations around this observation. Read the answer that it replaces" in read(run).text
    assert "posterior: amortised" in read(inside).text
    assert "posterior: refined" not in read(inside).text
    assert links(inside) == ["../../report.html"]
    assert "This answer was refined by simulations around it. Read the refined one" in read(inside).text
    write_report(near)
    assert links(near) == ["../../answers/cell7/report.html"]
    for place in (near, inside):
        (place / "report.html").write_text("of before")
    assert call("report", run).out.split() == [str(folder / "report.html") for folder in (run, near)]
    assert "of before" not in (near / "report.html").read_text() + (inside / "report.html").read_text()
    write_json(near / "rounds" / "refined.json", {"first": "0" * 64, "rounds": []})
    write_report(run)  # refined from another network than the run has now
    assert "posterior: refined" not in read(run).text
    assert "posterior: amortised" in read(run).text


def refined_run(run: Path) -> tuple[Path, Path, Path]:
    """A run whose answer was refined, the folder of the refined one, and that of the answer that this replaces."""
    near = run / "refined" / "cell7"
    for folder in (run, near):
        make_run(folder)
        inside = folder / "answers" / "cell7"
        inside.mkdir(parents=True)
        for name in ("answer.json", "draws.h5", "predictive.h5"):
            (folder / name).rename(inside / name)
    (near / "rounds").mkdir()
    write_json(near / "rounds" / "refined.json", {"first": "f" * 64, "rounds": []})
    said = json.loads((near / "answers/cell7/answer.json").read_text())
    write_json(
        near / "answers/cell7/answer.json", {**said, "posterior": "refined", "scope": "it holds for data near it"}
    )
    point_to_refined(run, "cell7", near, "cell7")
    return run, near, run / "answers" / "cell7"


def links(folder: Path) -> list[str]:
    """Where its links to other reports lead, of which each is there."""
    found = [v for k, v in read(folder).attributes if k == "href" and v and v.endswith("report.html")]
    assert all((folder / link).is_file() for link in found)
    return found


def test_a_second_question_shows_up_on_the_page_by_itself(line):
    run = line / "run"
    assert "<h2>other</h2>" not in (run / "report.html").read_text()
    (line / "other.csv").write_text("x [m]\n0.4\n1.1\n2.1\n2.9\n4.2\n")
    assert call("query", run, "--observation", line / "other.csv").code == 0
    assert re.search(r"\d of 2 answers can be relied on", read(run).text)
    html = (run / "report.html").read_text()
    assert re.findall(r"<h2>(seen|other)</h2>", html) == ["other", "seen"]


def test_levels_other_than_the_one_asked_at_are_of_all_draws(complete):
    numbers = numbers_of(next(iter(read_runs(complete).values())))
    draws = read_draws_h5(complete / "draws.h5")
    assert numbers.levels == (0.68, 0.9, 0.95)
    said = json.loads((complete / "answer.json").read_text())["parameters"].values()
    assert numbers.intervals[numbers.asked] == tuple(tuple(e["interval"]) for e in said)
    for level, each in zip(numbers.levels, numbers.intervals, strict=True):
        if level != 0.9:
            ends = [draws.quantile(q) for q in ((1 - level) / 2, (1 + level) / 2)]
            np.testing.assert_allclose(np.array(each, dtype=float), np.stack(ends, axis=1))


def test_answers_at_several_levels_and_in_several_units_are_not_in_one_column(tmp_path):
    folder = make_run(tmp_path)
    said = json.loads((folder / "answer.json").read_text())
    for index, (name, level) in enumerate((("cell7", 0.9), ("cell8", 0.9973))):
        inside = folder / "answers" / name
        inside.mkdir(parents=True)
        each = {n: {**e, "level": level, "interval": [0.25, 2.5 + index]} for n, e in said["parameters"].items()}
        each["rate"]["unit"] = ("1/h", "1/s")[index]
        write_json(inside / "answer.json", {**said, "parameters": each, "amortised": {}})
    (folder / "answer.json").unlink()
    runs = read_runs(folder)
    verdicts = {name: verdict_of(run) for name, run in runs.items()}
    text = Page(answers_table(runs, verdicts)).text
    assert "Median and central interval of each parameter" in text
    assert "cell7 90% 0.91 · 0.25 to 2.5" in text
    assert "cell8 99.73% 0.91 · 0.25 to 3.5 – ✓ rely" in text  # a rate in another unit is not in this column
    assert "99.73% interval" in Page(every_number(runs["cell8"])).text
    one = {"cell7": runs["cell7"]}
    assert "Median and central 90% interval" in Page(answers_table(one, verdicts)).text


def test_a_table_for_latex_takes_no_command_from_a_name(complete):
    run = next(iter(read_runs(complete).values()))
    numbers = replace(numbers_of(run), labels=("\\input{x}", "a_b & 5%"))
    table = latex(numbers, 1)
    assert "\\textbackslash{}input\\{x\\} & ${0.91}^{+0.59}_{-0.35}$ & mV" in table
    assert "a\\_b \\& 5\\% & " in table
    assert "h$^{-1}$" in table
    large = replace(numbers, units=("M_sun", "1/h"), medians=(1.23e9,) * 2, intervals=(((1.1e9, 1.4e9),) * 2,) * 3)
    assert "${1.23\\times 10^{9}}^{+1.7\\times 10^{8}}_{-1.3\\times 10^{8}}$ & M$_\\odot$" in latex(large, 1)
