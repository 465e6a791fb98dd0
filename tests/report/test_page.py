"""The report as a page: complete, bounded, without network, and safe against all that models, files and users write."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.report import report, report_runs
from ossft_ray.report.page import percent, significant, spans
from ossft_ray.run_folder.stage_folder import fingerprint
from tests.report.runs import (
    attempt,
    example,
    page_of,
    score,
    write_answers,
    write_rewriting,
    write_run,
    write_settings,
)

# Each sets the page's title, which reveals a script that ran. All must show up as text.
ATTACKS = [
    "<script>document.title='PWNED'</script>",
    "<img src=x onerror=\"document.title='PWNED'\">",
    "</script><script>document.title='PWNED'</script>",
    "</pre></details><svg onload=\"document.title='PWNED'\">",
    "\"'><body onload=\"document.title='PWNED'\">",
    '" onmouseover="document.title=\'PWNED\'" autofocus onfocus="document.title=\'PWNED\'" x="',
    "</style><iframe srcdoc=\"<script>parent.document.title='PWNED'</script>\"></iframe>",
    "javascript:document.title='PWNED'",
    "{{ 7 * 7 }}{% raw %} <!-- --><![CDATA[ &lt;b&gt; $x^{2}$ \ud800",
]


class Elements(html.parser.HTMLParser):
    """The tags of a page, their attributes, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine: install the package chromium to open the report in a browser")
    return found


def hostile_run(output: str) -> str:
    """A run with all attacks in each of its texts."""
    attack = "\n".join(ATTACKS).encode(errors="replace").decode()
    texts = dict.fromkeys(("problem_id", "question", "answer", "expert_solution", "response"), attack)
    attempts = [attempt("self", 0, attack, attack)]
    write_rewriting(output, [example(0, origin, **texts, attempts=attempts) for origin in ("self", "guided", "expert")])
    (Folder.at(output) / "train").write_bytes("metrics.jsonl", b'{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    (Folder.at(output) / "evaluate").write_json("scores.json", {attack: {attack: score(0.5)}})
    difference = {"difference": 0.1, "stderr": 0.01, "low": 0.0, "high": 0.2, "smallest_detectable": 0.1}
    (Folder.at(output) / "evaluate").write_json("differences.json", {attack: {attack: difference}})
    write_settings(output, model=attack)
    return output


@pytest.mark.thorough
def test_texts_of_a_run_never_become_elements(tmp_path: Path) -> None:
    ours, theirs = (tmp_path / name for name in ("ours", "\"><img src=x onerror=alert(1)> '"))
    report_runs([hostile_run(str(theirs)), write_run(str(ours))])
    page = Elements(page_of(str(theirs)))
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 1
    assert not {"img", "iframe", "object", "embed", "link"} & set(tags)
    assert tags.count("body") == tags.count("style") == 1
    assert [name for _, attributes in page.found for name in attributes if name.startswith("on")] == []
    for attack in ATTACKS:
        assert attack.encode(errors="replace").decode() in page.text, attack


def test_chromium_executes_no_script_of_a_run(tmp_path: Path, chromium: str) -> None:
    folder = tmp_path / "<img src=x onerror=document.title='PWNED'>"
    report_runs([hostile_run(str(folder))], str(tmp_path / "page.html"))
    dom = dump(chromium, tmp_path / "page.html", tmp_path)
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title[1].startswith("ossft report: ") and "PWNED'&gt;" in title[1]
    assert "3 of 3 matches" in dom  # our own script did run
    page = Elements(dom)
    assert not {"img", "iframe"} & {tag for tag, _ in page.found}
    assert "<img src=x onerror=\"document.title='PWNED'\">" in page.text


def test_the_content_security_policy_blocks_injected_scripts(tmp_path: Path, chromium: str) -> None:
    """The second line of defence: an unescaped script or handler does not run; without the policy it would."""
    write_run(str(tmp_path))
    report_runs([str(tmp_path)])
    injected = page_of(str(tmp_path)).replace("<main>", f"<main>{ATTACKS[0]}{ATTACKS[1]}")
    protected, unprotected = tmp_path / "protected.html", tmp_path / "unprotected.html"
    protected.write_text(injected)
    unprotected.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", injected))
    assert "<title>PWNED" not in dump(chromium, protected, tmp_path)
    assert "<title>PWNED" in dump(chromium, unprotected, tmp_path)


def dump(chromium: str, page: Path, scratch: Path) -> str:
    """The page's DOM after its scripts have run."""
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={scratch}/profile"]
    command += ["--virtual-time-budget=3000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout


def test_the_page_makes_no_network_requests(tmp_path: Path) -> None:
    report_runs([write_run(str(tmp_path))])
    page = page_of(str(tmp_path))
    loads = [
        (tag, name, value)
        for tag, attributes in Elements(page).found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "data", "srcset", "action") and not (value or "").startswith("#")
    ]
    assert loads == []
    assert not re.search(r"@import|url\((?!#)", page)
    assert not re.search(r"https?://", page)


@pytest.fixture(scope="module")
def text_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = write_run(str(tmp_path_factory.mktemp("run")))
    report_runs([run])
    return " ".join(Elements(page_of(run)).text.split())


@pytest.mark.parametrize(
    "words",
    [
        "2 · 40.0%",
        "1 h 0 min",
        "25.0 ± 5.0",
        "15.0 to 37.4",
        "policy gap, paired by problem+2.53 nats a token",
        "5 steps on 4 examples",
        "Shown: 2 of 2 self, 1 of 1 guided, 1 of 1 expert",
        "5,600",
        "train.jsonl4 problems",
        "playgroundloss dft, seed 7",
        "+25.0 points 95% interval +10.0 to +40.0; 25.0% → 50.0%, arithmetic",
        "Evaluation's time is not recorded.",
        "no_answer",
    ],
)
def test_the_page_contains(text_of_a_run: str, words: str) -> None:
    assert words in text_of_a_run


@pytest.fixture(scope="module")
def text_of_another_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model instead of guidance, and a teacher."""
    run = write_run(str(tmp_path_factory.mktemp("run")))
    changes: dict[str, dict[str, Any]] = {
        "rewrite/manifest.json": {
            "origins": {"self": 2, "guided": 0, "external": 1, "expert": 1},
            "external": {"requests": 6, "prompt_tokens": 1234, "completion_tokens": 567},
            "reasons": {"self": {"wrong": 6, "correct": 2}, "guided": {}, "external": {"correct": 1}},
        },
        "score/manifest.json": {
            "attempts": {
                "correct": {"responses": 3, "tokens": 21, "mean_logprob": -0.25, "teacher_mean_logprob": -0.125},
                "wrong": {"responses": 0, "tokens": 0, "mean_logprob": None, "teacher_mean_logprob": None},
                "too_long": 4,
            }
        },
    }
    for name, values in changes.items():
        folder, file = Folder.of_file(f"{run}/{name}")
        folder.write_json(file, folder.read_json(file) | values)
    settings = Folder.at(run).read_json("config.json")
    settings["experiment"]["rewrite"]["stages"] = ["self", "external"]
    Folder.at(run).write_json("config.json", settings)
    report_runs([run])
    return " ".join(Elements(page_of(run)).text.split())


@pytest.mark.parametrize(
    "words, is_there",
    [
        ("; the other model: 6 requests, 1,234 prompt tokens, 567 completion tokens.", True),
        ("external: re-solved by another model", True),
        ("guided: re-solved after the expert solution", False),
        ("again with guidance", False),
        ("attemptsnumbertokensmean log pteacher's mean log q correct321\N{MINUS SIGN}0.250\N{MINUS SIGN}0.125", True),
        ("4 attempts were left out as too long", True),
    ],
)
def test_another_model_and_a_teacher_have_their_figures(text_of_another_run: str, words: str, is_there: bool) -> None:
    assert (words in text_of_another_run) is is_there


def test_a_plain_run_mentions_no_other_model_or_teacher(text_of_a_run: str) -> None:
    assert "the other model" not in text_of_a_run and "under the teacher" not in text_of_a_run
    assert "guided: re-solved after the expert solution" in text_of_a_run


@pytest.mark.thorough
def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(str(tmp_path / name), loss=name, trained=value) for name, value in (("dft", 0.5), ("sft", 0.4))]
    assert report_runs(runs) == f"{runs[0]}/report.html"
    text = Elements(page_of(runs[0])).text
    for words in ("2 runs side by side", f"trained ({runs[0]})", f"trained ({runs[1]})", "train.loss"):
        assert words in text
    assert f"base ({runs[1]})" not in text  # the same as the first run's


@pytest.mark.thorough
def test_rounds_are_shown_side_by_side(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    write_run(str(tmp_path / "round-2"), trained=0.7)
    report_runs([str(tmp_path)])
    assert f"trained ({tmp_path}, round 2)" in page_of(str(tmp_path))
    assert 'id="rounds"' in page_of(str(tmp_path))
    report_runs([str(tmp_path / "round-2")])
    assert 'id="rounds"' not in page_of(str(tmp_path / "round-2"))


def test_a_run_in_progress_shows_its_results_so_far(tmp_path: Path) -> None:
    write_rewriting(str(tmp_path), [example(0, "self"), example(1, "guided")], finished=False)
    report_runs([f"file://{tmp_path}"])
    page = page_of(str(tmp_path))
    assert "<b>Not complete:</b> rewrite (" in page
    assert "still to do" in page
    for section in ("gap", "training", "benchmarks"):
        assert f'id="{section}"' not in page


@pytest.mark.thorough
def test_a_stage_made_from_earlier_results_is_marked(tmp_path: Path) -> None:
    """As after a corrected answer: the examples are newer than what was made from them."""
    folder = Folder.at(write_run(str(tmp_path)))
    (folder / "rewrite").write_json("inputs.json", {"answer": 1})
    for stage in ("score", "train"):
        (folder / stage).write_json("inputs.json", {"rewrite": fingerprint({"answer": 1})})
    for _ in range(2):  # the second page replaces an older one
        (folder / "score").write_json("manifest.json", (folder / "score").read_json("manifest.json"))
        report_runs([str(tmp_path)])
        assert 'class="warn"' not in page_of(str(tmp_path))
    (folder / "rewrite").write_json("inputs.json", {"answer": 2})
    report_runs([str(tmp_path)])
    page = page_of(str(tmp_path))
    found = re.findall(r'<p class="warn">.*?</p>', page, re.S)
    banner, *marks = [" ".join(Elements(each).text.split()) for each in found]
    assert banner.startswith("Outdated: score (the examples have changed since), train (the examples have changed")
    assert len(marks) == 3  # the policy gap, training and benchmarks
    assert "Outdated: the examples have changed since. These are the results from before." in marks
    sections = dict(re.findall(r'<section id="(\w+)".*?>(.*?)</section>', page, re.S))
    assert [name for name, content in sections.items() if "Outdated" in content] == ["gap", "training", "benchmarks"]


def test_more_correct_attempts_than_rows_are_explained(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    manifest = Folder.at(str(tmp_path)) / "rewrite"
    changed = {"reasons": {"self": {"correct": 3, "wrong": 5}, "guided": {"correct": 1}}}
    manifest.write_json("manifest.json", manifest.read_json("manifest.json") | changed)
    report_runs([str(tmp_path)])
    text = " ".join(Elements(page_of(str(tmp_path))).text.split())
    assert "Why 3 correct self attempts solve 2 problems: attempts are drawn in waves" in text


def test_suspect_and_doubtful_gold_answers_have_a_section(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    manifest = Folder.at(str(tmp_path)) / "rewrite"
    suspect = {"problem_id": "p2", "answer": "3", "agreed_answer": "30", "agreeing": [0, 1, 2], "num_attempts": 4}
    bad = {"problem_id": "p1", "finding": "contradicted", "answer": "2", "solution_says": "20"}
    doubts = {"suspects": [suspect], "bad_golds": [bad]}
    manifest.write_json("manifest.json", manifest.read_json("manifest.json") | doubts)
    report_runs([str(tmp_path)])
    text = " ".join(Elements(page_of(str(tmp_path))).text.split())
    assert (
        "1 problem may have a wrong gold answer: most attempts agree on another one. On the other problems, 0 of"
        in text
    )
    assert "p2What is 1 + 2?3303 of 40.00" in text
    assert "p1contradicted220" in text


@pytest.mark.thorough
def test_answers_and_marked_differences_are_on_the_page(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    write_answers(str(tmp_path), "base", {"a": "-+"})
    write_answers(str(tmp_path), "trained", {"a": "++"})
    report_runs([str(tmp_path)])
    page = page_of(str(tmp_path))
    assert "<del>It is</del> 1." in page and "<ins>I find</ins> 1." in page
    text = " ".join(Elements(page).text.split())
    assert "base: wrong · 1 of 2 samples correct" in text and "base says -0" in text
    assert "trained: correct · 2 of 2 samples correct" in text and "trained says +0" in text


@pytest.mark.parametrize(
    "value, text",
    [(0.078, "+7.8"), (-0.0781, "−7.8"), (-0.0001, "0.0"), (0.0004, "0.0"), (0.0, "0.0"), (-1.0, "−100.0")],
)
def test_zero_has_no_sign(value: float, text: str) -> None:
    assert percent(value, "+") == text


@pytest.mark.parametrize("value, text", [(14055.31, "14,055"), (100, "100"), (54.876, "54.9"), (1.04, "1.04")])
def test_large_numbers_have_no_decimals(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize("count", range(1, 13))
def test_every_row_of_figures_is_full(count: int) -> None:
    widths, row = spans(count), 0
    assert len(widths) == count and set(widths) <= {3, 4, 6, 12}
    for width in widths:
        row += width
        assert row <= 12
        row %= 12
    assert row == 0


def test_legends_name_only_what_is_there(tmp_path: Path) -> None:
    write_rewriting(str(tmp_path), [example(number, "self", response_token_ids=[1]) for number in range(2)])
    (Folder.at(str(tmp_path)) / "train").write_bytes("metrics.jsonl", b'{"step": 1, "loss": 0.5, "self/loss": 0.5}\n')
    report_runs([str(tmp_path)])
    keys = re.findall(r'<div class="key">(.*?)</div>', page_of(str(tmp_path)), re.S)
    assert [re.findall(r">([^<]+)</span>", key) for key in keys] == [["self"], ["all tokens", "self"]]


def test_nothing_is_cut_at_any_width(tmp_path: Path, chromium: str) -> None:
    """No element reaches past the page at 390, 820 and 1,400 pixels, whatever the names and texts are."""
    long = "Ω" * 300
    run = write_run(str(tmp_path / "run"))
    write_answers(run, "base", {long: "-+"}, benchmark="x" * 60)
    write_answers(run, "trained", {long: "++"}, benchmark="x" * 60)
    accuracies = {model: {"x" * 60: score(0.5)} for model in ("base", "trained", "another-model-" + "y" * 40)}
    (Folder.at(run) / "evaluate").write_json("scores.json", accuracies)
    texts = dict.fromkeys(("problem_id", "question", "answer", "expert_solution", "response"), long)
    write_rewriting(
        run, [example(number, origin, **texts) for number, origin in enumerate(("self", "guided", "expert"))]
    )
    report_runs([run])
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(run))
    frames = "".join(f'<iframe width="{width}" srcdoc="{html.escape(page)}"></iframe>' for width in (390, 820, 1400))
    measure = """
    document.title = JSON.stringify([...document.querySelectorAll("iframe")].map((frame) => {
      const inside = frame.contentDocument, width = inside.documentElement.clientWidth;
      const wide = [...inside.querySelectorAll("body *")].filter((each) => !each.closest("svg")
        && each.getBoundingClientRect().right > width + 1);
      return [width, wide.slice(0, 3).map((each) => each.outerHTML.slice(0, 90))];
    }));"""
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f"<body>{frames}<script>onload = () => {{ {measure} }}</script>")
    title = re.search(r"<title>(.*?)</title>", dump(chromium, wrapper, tmp_path), re.DOTALL)
    assert title is not None
    assert [(width > 370, wide) for width, wide in json.loads(html.unescape(title[1]))] == [(True, [])] * 3


def test_pointing_at_a_curve_reads_its_values_out(tmp_path: Path, chromium: str) -> None:
    write_run(str(tmp_path))
    report_runs([str(tmp_path)])
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(str(tmp_path)))
    point = """<script>
    const figure = document.querySelector("figure.curve"), plot = figure.querySelector(".plot");
    const box = plot.querySelector("svg").getBoundingClientRect(), edges = JSON.parse(figure.dataset.curve);
    const atRest = figure.querySelector("figcaption").textContent;
    const share = edges.left + (edges.right - edges.left) * (2.2 - edges.low) / (edges.high - edges.low);
    const clientX = box.left + share * box.width;
    plot.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY: box.top + 9 }));
    const there = figure.querySelector("figcaption").textContent;
    plot.dispatchEvent(new PointerEvent("pointerleave"));
    document.title = [atRest, there, figure.querySelector("figcaption").textContent].join("|");</script>"""
    (tmp_path / "pointed.html").write_text(page.replace("</body>", f"{point}</body>"))
    title = re.search(r"<title>(.*?)</title>", dump(chromium, tmp_path / "pointed.html", tmp_path), re.DOTALL)
    assert title is not None
    found = [" ".join(text.split()) for text in title[1].split("|")]
    assert found == ["last step: all 0.2 self 0.5", "step 2: all 0.5 self 0.5", "last step: all 0.2 self 0.5"]


def test_the_size_of_a_page_with_many_long_examples_is_bounded(tmp_path: Path) -> None:
    text = "<&>" * 4_000  # each character takes several as HTML
    attempts = [attempt("self", index, "wrong", text) for index in range(12)]
    rows = [example(n, "self", response=text, expert_solution=text, attempts=attempts) for n in range(600)]
    write_rewriting(str(tmp_path), rows, rows_per_part=100)
    report_runs([str(tmp_path)])
    assert len(page_of(str(tmp_path)).encode()) < 5_000_000


@pytest.mark.parametrize(
    "runs, output, words",
    [
        (["{tmp}/missing"], None, "missing: no such folder; give a run's folder"),
        (["{tmp}/run", "{tmp}/empty"], None, "empty: holds no run"),
        (["{tmp}/begun"], None, "begun: no stage has written anything to report on yet; run `ossft rewrite` first"),
        (["{tmp}/torn"], None, "torn/train/manifest.json: not valid JSON"),
        (["{tmp}/run"], "{tmp}/run/config.json/page.html", "cannot be written to"),
    ],
)
def test_what_is_refused(tmp_path: Path, runs: list[str], output: str | None, words: str) -> None:
    write_run(str(tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    write_settings(str(tmp_path / "begun"))
    (tmp_path / "torn/train").mkdir(parents=True)
    (tmp_path / "torn/train/manifest.json").write_text("{")
    with pytest.raises(InputError, match=re.escape(words)):
        report_runs([run.format(tmp=tmp_path) for run in runs], output and output.format(tmp=tmp_path))


@pytest.mark.thorough
def test_an_experiment_is_reported_on_from_its_output(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "run": {"output": write_run(str(tmp_path))},
        "policy": {"model": "x"},
        "data": {"path": "y"},
    }
    assert report(resolve(settings)) == f"{tmp_path}/report.html"
