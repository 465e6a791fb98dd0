"""`ossft check`: its findings and its output, without Ray or an engine."""

import json
import sys
from pathlib import Path

import pytest

from ossft_ray.cli import main
from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment, resolve
from ossft_ray.stages.check.stage import check


def experiment_on(folder: Path) -> Experiment:
    rows = [
        {"id": 1, "problem": "q1", "answer": "1", "solution": "s"},
        {"id": 2, "problem": "Q1?", "answer": "1", "solution": "s"},
        {"id": 3, "problem": "q3", "answer": "proof", "solution": "s"},
        {"id": 4, "problem": "q4", "answer": "proof", "solution": "s"},
        {"id": 4, "problem": "", "answer": "1", "solution": "s"},
        {"id": 5, "problem": "q5", "answer": "1", "solution": "s"},
    ]
    (folder / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bench.jsonl").write_text(json.dumps({"problem": "q5", "answer": "1"}))
    benchmarks = [str(folder / "bench.jsonl"), "playground/level1"]
    settings = {"policy": {"model": "playground"}, "evaluate": {"benchmarks": benchmarks}}
    return resolve(settings | {"data": {"path": str(folder / "x.jsonl")}, "run": {"output": str(folder / "run")}})


def test_findings(tmp_path: Path) -> None:
    findings = check(experiment_on(tmp_path))
    bench = str(tmp_path / "bench.jsonl")
    assert findings.counts.problems == 3
    assert findings.counts.rejected == {"no_answer": 2, "no_question": 1}
    assert findings.counts.duplicates == 1
    assert findings.counts.contamination == {bench: 1, "playground/level1": 0}
    assert findings.benchmarks == {bench: 1, "playground/level1": 80}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides, lines",
    [
        (
            [],
            [
                "problems:          3 usable; set aside: 2 no_answer, 1 no_question",
                'duplicates:        1 (duplicates = "keep")',
                'benchmark overlap: 1 bench.jsonl (contamination = "report")',
            ],
        ),
        (
            ["data.duplicates=drop", "data.contamination=drop", "data.no_answer=expert"],
            [
                "problems:          3 usable; set aside: 1 duplicate_question, 1 no_question, 1 contaminated",
                'duplicates:        1 (duplicates = "drop")',
                'benchmark overlap: 1 bench.jsonl (contamination = "drop")',
            ],
        ),
        (["data.contamination=ignore"], ['benchmark overlap: not looked for (contamination = "ignore")']),
        (["data.bad_golds=ignore"], ['gold answers:      not checked (bad_golds = "ignore")']),
    ],
)
def test_output(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    lines: list[str],
) -> None:
    experiment_on(tmp_path)
    monkeypatch.chdir(tmp_path)
    settings = ["policy.model=playground", "data.path=x.jsonl", 'evaluate.benchmarks=["bench.jsonl"]', *overrides]
    monkeypatch.setattr(sys, "argv", ["ossft", "check", *(word for each in settings for word in ("--set", each))])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line in lines] == lines
    assert shown[-1] == "the experiment is sound"


@pytest.mark.parametrize(
    "rewrite, examples, is_refused",
    [
        ({}, None, True),
        ({"behavior_logprobs": True}, None, False),
        ({"stages": []}, None, False),  # the policy samples nothing
        ({}, "other/rewrite", False),
    ],
)
def test_a_loss_whose_inputs_rewriting_will_not_record_is_refused(
    tmp_path: Path, rewrite: dict[str, object], examples: str | None, is_refused: bool
) -> None:
    plain = experiment_on(tmp_path)
    settings = plain.model_copy(
        update={
            "train": plain.train.model_copy(update={"loss": "is", "examples": examples}),
            "rewrite": plain.rewrite.model_copy(update=rewrite),
        }
    )
    if is_refused:
        with pytest.raises(InputError, match=r"\[train\] loss: \"is\" needs .* \[rewrite\] behavior_logprobs = true"):
            check(settings)
    else:
        assert check(settings).counts.problems == 3
