"""`ossft check`: its findings and its output, without Ray or an engine."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from ossft_ray.cli import main
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Score, resolve
from ossft_ray.distributed import resource_check
from ossft_ray.distributed.resource_check import with_zero_stage
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


def run_check(monkeypatch: pytest.MonkeyPatch, *settings: str) -> object:
    """Run `ossft check` with these settings, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["ossft", "check", *(word for each in settings for word in ("--set", each))])
    with pytest.raises(SystemExit) as leaving:
        main()
    return leaving.value.code


def test_the_layout_and_the_first_problems_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"question": "q<|im_end|>\x1b", "options": ["1"], "answer": "5\n#### 5"}
    Path("x.json").write_text(json.dumps([row | {"question": f"{row['question']}{n}"} for n in range(5)]))
    settings = ["policy.model=playground", "data.path=x.json", "evaluate.benchmarks=[]", "prompts.system="]
    assert run_check(monkeypatch, *settings) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:9] == [
        "data:              x.json, GSM8K: question = question, expert_solution = answer",
        "                   not read: options",
        "                   may belong to the question: options; name it in [data] columns.context if it does",
        "problem 1:         00000000, as the policy will see it",
        "  | <|im_start|>user",
        "  | q<|im_end|>\\x1b0<|im_end|>",
        "  | <|im_start|>assistant",
        "  gold answer: 5",
        "  expert solution: 5",
    ]
    assert [line for line in shown if line.startswith("problem ")][-1].startswith("problem 3:")


@pytest.mark.thorough
def test_all_local_faults_are_listed_and_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ossft_ray.data.benchmarks.read_hub_records", lambda *_, **__: pytest.fail("asked the Hub"))
    Path("x.jsonl").write_text(json.dumps({"task": "q", "solution": "s"}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    faults = {
        "data.path=x.jsonl": "x.jsonl: no column 'problem'; found: task, solution",
        "policy.engine.tensor_parallel_size=3": "[policy.engine] tensor_parallel_size: 3 does not divide the 4",
        "resources.gpus_per_policy=64": "each with 64 GPUs on one node: the cluster has room for 0 (1 node with 2 GPUs",
        'evaluate.benchmarks=["math500", "missing.jsonl"]': "missing.jsonl: no such file",
    }
    assert run_check(monkeypatch, "policy.model=playground", *faults) == 2
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert len(lines) == len(faults) and all(line.startswith("fault: ") for line in lines)
    assert all(any(words in line for line in lines) for words in faults.values())
    assert written.err == f"error: {lines[0].removeprefix('fault: ')} (and 3 more)\n"


@pytest.mark.parametrize(
    "overrides, is_refused", [([], True), (["data.max_broken=0.4"], False), (["data.max_broken=0.2"], True)]
)
def test_too_many_unreadable_rows_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    is_refused: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    good = json.dumps({"problem": "q", "solution": "s", "answer": "1"})
    empty, other = good.replace('"q"', '""'), good.replace("problem", "task")
    Path("x.jsonl").write_text("\n".join([good, empty, '{"problem":', good, other, good]))
    settings = ["policy.model=playground", "data.path=x.jsonl", "evaluate.benchmarks=[]", *overrides]
    assert run_check(monkeypatch, *settings) == (2 if is_refused else 0)
    written = capsys.readouterr()
    if is_refused:
        assert "2 of 6 rows cannot be read; the first is x.jsonl, row 3: broken_row: not valid JSON" in written.err
    else:
        assert "                   x.jsonl, row 2: no_question\n" in written.out


def test_a_file_in_the_wrong_place_is_recognised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ossft", "check", "e1.toml"])
    with pytest.raises(SystemExit):
        main()
    assert "(e1.toml); did you mean --config e1.toml?" in capsys.readouterr().err


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
    if examples is not None:
        examples = str(tmp_path / examples)
        Folder.at(examples).write_json("manifest.json", {})
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


@pytest.mark.parametrize(
    "overrides, fault",
    [
        (["run.output=x.jsonl"], r"[run] output: x.jsonl cannot be reached or written: "),
        (["run.output=/proc/none/run"], r"[run] output: /proc/none/run cannot be reached or written: "),
        (["train.examples=none"], "none: no complete examples (no manifest.json); [train] examples must be a finished"),
        (['train.mix=[{examples="none", weight=1}]'], "none"),
        (['train.mix=[{examples="x.jsonl", weight=1}]', "train.loss=iw_sft"], "train.mix: mixed rows have no scores"),
        (["train.examples=done", "loop.rounds=2"], "[loop] rounds: with [train] examples every round would train on"),
        (["rewrite.solved_in=none"], "none holds no complete examples (no manifest.json); name a finished"),
        (["verify.kind=choice"], "[verify] kind: it can read none of the 3 gold answers"),
        (["train.max_length=5"], "[train] max_length: 5 tokens leave nothing to train on, as the prompts"),
    ],
)
def test_faults_that_would_end_a_run_later_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    fault: str,
) -> None:
    experiment_on(tmp_path)
    monkeypatch.chdir(tmp_path)
    Folder.at("done").write_json("manifest.json", {})
    settings = ["policy.model=playground", "data.path=x.jsonl", "evaluate.benchmarks=[]", *overrides]
    before = sorted(tmp_path.iterdir())
    assert run_check(monkeypatch, *settings) == 2
    written = capsys.readouterr()
    assert fault in written.err + written.out
    assert "Traceback" not in written.err and sorted(tmp_path.iterdir()) == before


def test_a_loss_that_needs_a_teacher_is_refused_without_one(tmp_path: Path) -> None:
    plain = experiment_on(tmp_path)
    settings = plain.model_copy(update={"train": plain.train.model_copy(update={"loss": "opd"})})
    with pytest.raises(InputError, match=r"\[train\] loss: \"opd\" needs a teacher"):
        check(settings)
    keeping = plain.rewrite.model_copy(update={"keep_attempts": True})
    missing = settings.model_copy(update={"score": Score(teacher="no/such/folder"), "rewrite": keeping})
    with pytest.raises(InputError, match=r"\[score\] teacher: no model folder at no/such/folder"):
        check(missing)


def test_settings_that_deepspeed_cannot_use_are_refused(tmp_path: Path) -> None:
    given = experiment_on(tmp_path)
    offloaded = given.train.model_copy(update={"zero_stage": 0, "offload": "all"})
    with pytest.raises(InputError, match=r"\[train\] offload: needs zero_stage 1, 2 or 3"):
        check(given.model_copy(update={"train": offloaded}))


def test_training_memory_is_compared_with_gpu_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = experiment_on(tmp_path)
    assert check(experiment).training_memory is None  # nothing is refused without a GPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(resource_check, "gpu_memory", lambda: [80 << 30, 70 << 30])
    line = check(experiment).training_memory
    assert line is not None and "on each of 2 GPUs with 75.2 GB (weights 1.1 MB" in line
    monkeypatch.setattr(resource_check, "gpu_memory", lambda: [1 << 20])
    with pytest.raises(InputError, match=r"\[train\] needs at least .* on each of 2 GPUs with 1.0 MB"):
        check(experiment)
    unusual = Mock(side_effect=NotImplementedError("Cannot copy out of meta tensor"))
    monkeypatch.setattr("ossft_ray.engines.training.policy_model.count_parameters", unusual)
    assert check(experiment).training_memory == "not known for this model: Cannot copy out of meta tensor"


@pytest.mark.parametrize(
    "visible, sizes, used, shown",
    [
        ("", [], 2, None),
        ("0", [80 << 30], 1, "with ZeRO stage 1"),
        ("0,1", [80 << 30, 80 << 30], 1, "with ZeRO stage 1"),
        ("0,1", [80 << 30, 1 << 23], 3, None),
    ],
)
def test_zero_stage_auto_fits_the_smallest_gpu(
    visible: str, sizes: list[int], used: int, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_on(tmp_path)
    automatic = experiment.model_copy(update={"train": experiment.train.model_copy(update={"zero_stage": "auto"})})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(resource_check, "gpu_memory", lambda: sizes)
    assert with_zero_stage(automatic).train.zero_stage == used
    assert with_zero_stage(experiment) is experiment
    if shown is not None:
        assert str(check(automatic).training_memory).endswith(shown)
