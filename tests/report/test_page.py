"""The report as a page: complete, bounded, without network, and safe against all that models, files and users write."""

import html.parser
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
from tests.report.runs import attempt, example, page_of, score, write_rewriting, write_run, write_settings

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
        "15.2 to 34.8",
        "5 steps on 4 examples",
        "Shown: 2 of 2 self, 1 of 1 guided, 1 of 1 expert",
        "5,600",
        "playground, loss dft, seed 7",
        "no_answer",
    ],
)
def test_the_page_contains(text_of_a_run: str, words: str) -> None:
    assert words in text_of_a_run


def test_runs_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(str(tmp_path / name), loss=name, trained=value) for name, value in (("dft", 0.5), ("sft", 0.4))]
    assert report_runs(runs) == f"{runs[0]}/report.html"
    text = Elements(page_of(runs[0])).text
    for words in ("2 runs side by side", f"trained ({runs[0]})", f"trained ({runs[1]})", "train.loss"):
        assert words in text
    assert f"base ({runs[1]})" not in text  # the same as the first run's


def test_rounds_are_shown_side_by_side(tmp_path: Path) -> None:
    write_run(str(tmp_path))
    write_run(str(tmp_path / "round-2"), trained=0.7)
    report_runs([str(tmp_path)])
    assert f"trained ({tmp_path}, round 2)" in page_of(str(tmp_path))


def test_a_run_in_progress_shows_its_results_so_far(tmp_path: Path) -> None:
    write_rewriting(str(tmp_path), [example(0, "self"), example(1, "guided")], finished=False)
    report_runs([f"file://{tmp_path}"])
    page = page_of(str(tmp_path))
    assert "not complete: rewrite" in page
    assert "still to do" in page
    for section in ("gap", "training", "benchmarks"):
        assert f'id="{section}"' not in page


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


def test_an_experiment_is_reported_on_from_its_output(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "run": {"output": write_run(str(tmp_path))},
        "policy": {"model": "x"},
        "data": {"path": "y"},
    }
    assert report(resolve(settings)) == f"{tmp_path}/report.html"
