"""Reports: only what may be compared stands in one table, every form says the same, the page needs nothing else."""

import copy
import csv
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.report import report, table, write_report
from dualoptim_diffusion.report.tables import escape
from tests.helpers.commands import Outcome
from tests.helpers.reports import extended, make_run, results

Command = Callable[..., Outcome]
NASTY = "<script>alert(1)</script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def other_protocol(**unlearned: Any) -> dict[str, Any]:
    return results(**unlearned) | {"protocol_hash": "d" * 64}


def test_a_table_has_the_original_and_the_unlearned_model_with_counts_and_intervals() -> None:
    text = table(results())
    assert "1.0% (5/500, 95% 0.4% to 2.3%)" in text
    assert "94.0% (n=1000, 95% 92.4% to 95.3%)" in text
    assert "0.05 (95% 0.045 to 0.055; 1.25x original, 95% 1.10 to 1.40)" in text
    assert "97.5% of 40 (three)" in text
    assert "(w = 0.5)" in text
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["model", "original", "unlearned"]


def test_the_distance_is_called_by_the_name_in_the_results() -> None:
    content = results(name="FID")
    content["original"]["frechet"]["name"] = "FID"
    content["original"]["kid"]["name"] = content["unlearned"]["kid"]["name"] = "KID[Inception]"
    assert table(content).splitlines()[0].endswith("KID[Inception]")
    content["protocol"]["distance"]["headline"] = "frechet"  # as the published protocols have it
    assert table(content).splitlines()[0].endswith("FID")
    assert "FD[rotations]" not in table(content)


def test_an_unverified_classifier_and_the_selection_rule_are_said() -> None:
    text = table(extended())
    assert "Classifier: unverified." in text
    assert "“the lowest FA”: step 40" in text
    assert "unverified" not in table(results())


def test_runs_of_one_base_and_class_share_the_row_of_the_original(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", results()), make_run(tmp_path / "two", results(fa=0))
    eight = make_run(tmp_path / "eight", results("eight"))
    other = make_run(tmp_path / "other", results(), base="e" * 64)
    made = report([one, two, eight, other, one], tmp_path / "out").json
    rows = [(row["model"], row["forgotten"][0]) for row in made["rows"]]
    assert rows == [
        ("original", "three"), ("one", "three"), ("two", "three"),
        ("original", "eight"), ("eight", "eight"),
        ("original", "three"), ("other", "three"),
    ]  # fmt: skip


def test_folders_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / part / "three", results()) for part in ("a", "b")]
    assert [row["model"] for row in report(runs, tmp_path / "out").json["rows"][1:]] == [str(run) for run in runs]


def test_mixed_protocols_are_refused_and_with_mixed_labelled_in_every_form(dualoptim: Command, tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", results()), make_run(tmp_path / "two", other_protocol())
    out = tmp_path / "out"
    outcome = dualoptim("report", one, two, "--out", out)
    assert (outcome.code, outcome.out) == (1, "")
    (complaint,) = outcome.err.splitlines()
    assert all(word in complaint for word in ("one and two", "different protocols", "evaluate", "--mixed"))
    assert not out.exists()
    outcome = dualoptim("report", one, two, "--out", out, "--mixed")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Warning: the rows were measured under different protocols")
    for name in ("report.html", "report.md", "report.csv"):
        text = (out / name).read_text()
        assert "protocol" in text
        assert "a" * 12 in text
        assert "d" * 12 in text
    for name in ("report.html", "report.md", "report.json"):
        assert "were measured under different protocols" in (out / name).read_text()
    assert "a" * 12 in outcome.out.splitlines()[2]


def test_other_distances_count_as_another_protocol(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", results()), make_run(tmp_path / "two", results(name="FID"))]
    with pytest.raises(InputError, match="different distances"):
        report(runs, tmp_path / "out")
    made = report(runs, tmp_path / "out", mixed=True)
    header = made.text.splitlines()[1]
    assert "KID[rotations]" in header
    assert header.endswith("KID[Inception]")  # a column each: never two scales in one


def test_every_form_carries_the_figures_of_the_table(dualoptim: Command, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", extended())
    printed = json.loads(dualoptim("report", run, "--json").out)
    stored = json.loads((run / "report.json").read_text())
    assert printed == stored
    text = dualoptim("report", run).out
    lines = list(csv.DictReader(StringIO((run / "report.csv").read_text())))
    markdown, page = (run / "report.md").read_text(), html.unescape((run / "report.html").read_text())
    for row, line, model in zip(stored["rows"], lines, ("original", "unlearned"), strict=True):
        source = extended()[model]
        assert line["model"] == row["model"] == model
        for name, key in (("FA", "FA"), ("RA", "RA"), ("FA (none)", "FA_none")):
            part, (low, high) = row["figures"][name], source[key]["ci95"]
            assert part["value"] == source[key]["value"] == float(line[name])
            assert (part["n"], part["ci95"]) == (source[key]["n"], [low, high])
            assert (float(line[f"{name} low"]), float(line[f"{name} high"])) == (low, high)
            detail = f"95% {low:.1%} to {high:.1%}"
            assert all(f"{part['value']:.1%}" in form and detail in form for form in (text, markdown, page))
        for key in ("frechet", "kid", "kid_training", "frechet_infinity", "inception_score", "precision"):
            value, name = source[key]["value"], source[key]["name"]
            assert row["figures"][name]["value"] == value == float(line[name])
            shown = f"{value:.1%}" if key == "precision" else f"{value:.3g}"
            assert all(shown in form for form in (text, markdown, page))
        assert row["figures"]["degenerate"]["value"] == float(line["degenerate"]) == 0
    assert "recall" not in text  # what was not measured has no column


def test_gaps_to_the_control_are_points_of_rates_and_a_ratio_of_distances(dualoptim: Command, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results())
    control = make_run(tmp_path / "control", results(fa=15, ra=970, distance=2.5), method="retrain")
    outcome = dualoptim("report", run, "--control", control)
    assert outcome.code == 0, outcome.err
    rows = json.loads((run / "report.json").read_text())["rows"]
    assert [row["role"] for row in rows] == ["original", "unlearned", "control"]
    original, unlearned, last = (row["figures"] for row in rows)
    assert unlearned["FA"]["gap_to_control"] == pytest.approx(1.0 - 3.0)
    assert unlearned["RA"]["gap_to_control"] == pytest.approx(94.0 - 97.0)
    assert unlearned["FD[rotations]"]["ratio_to_control"] == pytest.approx(5.0 / 2.5)
    assert unlearned["KID[rotations]"]["ratio_to_original"] == 1.25
    assert original["FA"]["gap_to_control"] == pytest.approx(96.0 - 3.0)
    assert original["FD[rotations]"]["ratio_to_control"] == pytest.approx(4.0 / 2.5)
    assert "gap_to_control" not in last["FA"]
    for form in (outcome.out, (run / "report.md").read_text(), (run / "report.html").read_text()):
        assert "-2.0 pp to control" in form
        assert "2.00x control" in form
    assert "Warning" not in outcome.out


def test_only_a_control_without_the_same_classes_and_of_one_protocol_is_taken(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results())
    with pytest.raises(InputError, match="without eight, but run forgot three"):
        report([run], control=make_run(tmp_path / "eight", results("eight")))
    with pytest.raises(InputError, match="different protocols"):
        report([run], control=make_run(tmp_path / "other", other_protocol()), mixed=True)
    with pytest.raises(InputError, match="both a row and the control"):
        report([run], control=run)
    assert not (run / "report.html").exists()
    made = report([run], control=make_run(tmp_path / "finetuned", results(), method="finetune"))
    assert "made with finetune, not by retraining" in made.text


def test_a_folder_that_is_no_report_is_left_alone(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, results()) for name in ("one", "two")]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.json").write_text("[]")
    for out in (mine, runs[0]):
        with pytest.raises(InputError, match="not a folder of reports"):
            report(runs, out)
    assert (mine / "report.json").read_text() == "[]"
    report(runs, tmp_path / "out")
    assert report(runs[:1], tmp_path / "out").page == tmp_path / "out" / "report.html"  # ours is written again


def test_the_page_needs_no_network_and_escapes_every_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", extended(NASTY))
    for name in ("grid_before.png", "grid_after.png"):
        (run / name).write_bytes(DOT)
    page = write_report(run).read_text()
    assert NASTY not in page
    assert html.escape(NASTY, quote=False) in page
    assert page.count("<script>") == 1
    references = re.findall(r"\b(?:src|href|action|data)\s*=\s*[\"']?([^\"'\s>]*)", page)
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in references)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    assert NASTY not in (run / "report.md").read_text()
    assert "&lt;script>" in escape(NASTY)


def test_the_page_shows_both_halves_or_else_the_grid_or_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results())
    assert "<img" not in write_report(run).read_text()
    (run / "grid.png").write_bytes(DOT)
    page = write_report(run).read_text()
    assert (page.count("<img"), '<input type="range"' in page) == (1, False)
    for name in ("grid_before.png", "grid_after.png"):
        (run / name).write_bytes(DOT)
    page = write_report(run).read_text()
    assert (page.count("<img"), '<input type="range"' in page) == (2, True)


def test_the_page_says_first_what_was_forgotten_and_what_it_cost(tmp_path: Path) -> None:
    page = write_report(make_run(tmp_path / "run", extended())).read_text()
    lead = html.unescape(re.findall(r'<p class="lead">(.*?)</p>', page)[0])
    assert "“three” draws its class in 1.0% of 500 images (95% interval 0.4% to 2.3%); before, in 96.0%" in lead
    costs = html.unescape(page[page.index("</header>") :])
    assert "94.0% of 1000 images; before, in 95.0% (no measurable difference)." in costs
    assert "“three” now draws one (60%), none of these (39%) and three (1%)" in costs
    assert "held-out real ones, KID[rotations], is 0.05, 1.25x the original, 95% 1.10 to 1.40 (worse than" in costs
    assert "How often a forgotten label still draws a forgotten class" in page  # on hover
    assert "60.0%" in page  # of the label's images are now called "one"
    assert "3/1000, 95%" in page  # leakage
    assert page.count("<svg") == 3  # losses, gradient norms, FA along the run
    assert "var(--red)" in page
    assert "#01020" not in page  # every drawing colour became the page's


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"degenerate": 1.0}, "100.0% of its images are one flat colour"),
        ({"drawn": {"three": {"none of these": 490, "one": 10}}}, 'calls 98.0% of its images "none of these"'),
        ({"variety": {"three": 0.01}}, "its images are nearly one image, with 5.0% of the original's variance"),
    ],
)
def test_a_collapsed_label_is_called_collapsed_first_of_all_not_forgotten(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """Whatever FA is: a white block may be called a nine, or nothing."""
    for fa in (0, 500):
        content = extended() | {"unlearned": extended()["unlearned"] | results(fa=fa)["unlearned"] | changes}
        if "degenerate" in changes:
            shares = {"value": 1.0, "n": 500, "hits": 500, "ci95": [0.99, 1.0], "per_class": {"three": 1.0}}
            content["unlearned"]["degenerate"] = results()["unlearned"]["degenerate"] | {"forgotten": shares}
        said = "The label “three” has collapsed: "
        assert said in table(content)
        assert reason in table(content)
        page = html.unescape(write_report(make_run(tmp_path / f"run{fa}", content)).read_text())
        assert page.index(said) < page.index("After unlearning")
    assert "collapsed" not in table(extended())


def test_a_label_that_drew_as_little_before_is_not_called_collapsed(tmp_path: Path) -> None:
    drawn = {"drawn": {"one": {"none of these": 60, "one": 40}}}
    content = extended()
    for figures in (content["original"], content["unlearned"]):
        figures |= drawn
        figures["degenerate"]["others"]["per_class"] = {"one": 0.0}
    page = html.unescape(write_report(make_run(tmp_path / "run", content)).read_text())
    assert "“one” has collapsed" not in page
    said = 'The label “one” draws as little as before: the classifier calls 60.0% of its images "none of these".'
    assert page.index("After unlearning") < page.index(said)


def test_some_flat_images_of_a_label_are_told_however_few_they_are_of_all() -> None:
    content = results()
    content["unlearned"]["degenerate"]["others"]["per_class"] = {"one": 0.29, "two": 0.0}
    assert "Some images are one flat colour: 29.0% of “one”." in table(content)


def test_one_run_holds_its_figures_under_several_protocols(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", extended())
    other = other_protocol(fa=40)
    other["protocol"] |= {"name": "quick", "classifier": {"name": "another"}}
    (run / "evaluations").mkdir()
    (run / "evaluations" / "dddddddddddd.json").write_text(json.dumps(other))
    made = report([run])
    assert [row["protocol_hash"][0] for row in made.json["rows"]] == ["a", "a", "d", "d"]
    assert [row["figures"]["FA"]["hits"] for row in made.json["rows"]] == [480, 5, 480, 40]
    assert made.json["mixed"] is True
    assert "Classifier another" in made.text
    assert "standard 3, aaaaaaaaaaaa" in made.text
    page = (run / "report.html").read_text()
    assert page.index("1.0%") < page.index("8.0%")
    (run / "evaluations" / "dddddddddddd.json").write_text("{}")
    with pytest.raises(InputError, match=r"dddddddddddd\.json is damaged"):
        report([run])


def test_figures_of_an_earlier_version_of_the_protocols_are_not_shown_beside_these(tmp_path: Path) -> None:
    content = results()
    content["protocol"]["version"] = 1
    with pytest.raises(InputError, match=r"version 3 of the protocols, not 1.*dualoptim evaluate"):
        report([make_run(tmp_path / "run", content)])


def test_the_model_card_says_what_was_forgotten_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", extended())
    (run / "model" / "unet").mkdir(parents=True)
    weights = run / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"weights")
    write_report(run)
    assert weights.read_bytes() == b"weights"
    assert sorted(path.name for path in (run / "model").iterdir()) == ["README.md", "unet"]
    card = (run / "model" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "diffusers"
    assert "license" not in front
    assert "class-unlearning" in front["tags"]
    for words in ("# Forgotten: three", "5/500, 95% 0.4% to 2.3%", "a" * 64, "b" * 64, "not stated", "from_pretrained"):
        assert words in card
    assert "CC BY-NC" not in card
    assert "not that nothing in the weights remembers it" in card


def test_the_model_card_states_the_licence_of_the_base_model(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", results())
    (run / "model").mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump({"model": {"family": "dit"}}))
    write_report(run)
    assert "not stated; DiT-XL/2 weights, for one, are CC BY-NC 4.0" in (run / "model" / "README.md").read_text()
    (run / "provenance.json").write_text(json.dumps({"base_model_license": "apache-2.0"}))
    write_report(run)
    card = (run / "model" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert "not stated" not in card


@pytest.mark.parametrize("missing", ["FA", "RA", "kid", "frechet", "degenerate"])
def test_results_without_a_figure_are_refused_by_name(tmp_path: Path, missing: str) -> None:
    content = copy.deepcopy(results())
    del content["unlearned"][missing]
    with pytest.raises(InputError, match=f"no readable results.*{missing}"):
        report([make_run(tmp_path / "run", content)])


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desktop_in_light_and_dark(tmp_path: Path, width: int, dark: bool) -> None:
    content = extended("a rather long name of a class, of the kind that data sets have")
    runs = [make_run(tmp_path / name, content) for name in ("one", "a_run_folder_with_a_very_long_name_indeed")]
    for name in ("grid_before.png", "grid_after.png"):
        (runs[0] / name).write_bytes(DOT)
    pages = [path.read_text() for path in (report(runs[:1]).page, report(runs, tmp_path / "out").page)]
    opened = [html.escape(page.replace("<details", "<details open")) for page in pages]
    frames = "".join(f'<iframe width="{width}" height="900" srcdoc="{page}"></iframe>' for page in opened)
    (tmp_path / "harness.html").write_text(
        f"<!doctype html><body>{frames}<p id=seen></p><script>onload = () => {{ seen.textContent = JSON.stringify("
        "[...document.querySelectorAll('iframe')].map(({contentDocument: d, contentWindow: w}) => {"
        "const range = d.querySelector('input'); range.value = 80; range.dispatchEvent(new w.Event('input'));"
        "return {clip: w.getComputedStyle(d.querySelector('.after')).clipPath,"
        "inner: w.innerWidth, page: d.documentElement.scrollWidth, paper: w.getComputedStyle(d.body).backgroundColor,"
        "line: w.getComputedStyle(d.querySelector('svg path[style*=\"--red\"]')).stroke}"
        "})) }</script>"
    )
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", f"user-data-dir={tmp_path / 'profile'}", "dump-dom"]
    flags += [f"blink-settings=preferredColorScheme={0 if dark else 1}", "window-size=1400,1000"]
    command = [str(CHROMIUM), *(f"--{flag}" for flag in flags), (tmp_path / "harness.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(html.unescape(re.findall(r'<p id="seen">(.*?)</p>', dom)[0]))
    assert len(seen) == 2
    for page in seen:
        assert page["page"] <= page["inner"] <= width
        assert page["paper"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        assert page["line"] == ("rgb(255, 132, 121)" if dark else "rgb(185, 48, 42)")
        assert page["clip"] == "inset(0px 0px 0px 80%)"  # the slider moves the line
