"""Tasks: defaults that an experiment overrides, and worked examples whose solutions their verifiers accept."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.prompt_templates import SYSTEM_PROMPT, TEMPLATES
from ossft_ray.config import Experiment, load_experiment, load_verify, resolve
from ossft_ray.data.gold_check import gold_pool
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.screening import InputCounts, screen_problems
from ossft_ray.policy.chat import load_chat
from ossft_ray.tasks import read_task

ROOT = Path(__file__).parents[2]
FINDINGS = {"open": "unjudged"}  # only an engine can judge
EXAMPLES = sorted((ROOT / "examples" / "tasks").glob("*.toml"))


def experiment(**sections: Any) -> Experiment:
    return resolve({"policy": {"model": "playground"}, "data": {"path": "train.jsonl"}, **sections})


def test_mathematics_is_the_default_task() -> None:
    assert experiment(run={"task": "math"}) == experiment()
    assert experiment().prompts.system == SYSTEM_PROMPT and experiment().verify.kind == "math"


@pytest.mark.parametrize(
    "own, expected",
    [
        ({}, ("letter", "number", 0.25, 1.5)),
        ({"verify": {"number": {"absolute_tolerance": 2.0}}}, ("letter", "number", 0.25, 2.0)),  # the rest stays
        ({"verify": {"kind": "text"}}, ("letter", "text", 0.25, 1.5)),
        ({"prompts": {"system": "mine"}}, ("mine", "number", 0.25, 1.5)),
        ({"prompts": {"template": "qwen-boxed"}}, (TEMPLATES["qwen-boxed"].system, "number", 0.25, 1.5)),
    ],
)
def test_own_settings_win_over_those_of_the_task(
    own: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    numbers = "number = { relative_tolerance = 0.25, absolute_tolerance = 1.5 }"
    file.write_text(f'[prompts]\nsystem = "letter"\n[verify]\nkind = "number"\n{numbers}\n')
    found = experiment(run={"task": str(file)}, **own)
    tolerances = found.verify.number.relative_tolerance, found.verify.number.absolute_tolerance
    assert (found.prompts.system, found.verify.kind, *tolerances) == expected


def test_grading_a_file_uses_the_task_too(tmp_path: Path) -> None:
    config = tmp_path / "experiment.toml"
    config.write_text('[run]\ntask = "quantity"\n')
    assert (
        load_verify(config)[0].number.relative_tolerance
        == read_task("quantity")["verify"]["number"]["relative_tolerance"]
    )


@pytest.mark.parametrize(
    "task, content, message",
    [
        ("chioce", None, "did you mean 'choice'"),
        ("absent.toml", None, "absent.toml: No such file"),
        ("mine.toml", "[train]\nloss = 'sft'\n", "'train' does not belong here"),
        ("mine.toml", "[prompts\n", "not valid TOML"),
        ("mine.toml", "[prompts]\nsolve = 'no place'\n", "with the task mine.toml: 'prompts': solve must contain"),
    ],
)
def test_a_faulty_task_is_refused(
    task: str, content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(task).write_text(content)
    with pytest.raises(InputError, match=message):
        experiment(run={"task": task})


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} == {"finance", "medicine", "open"}


@pytest.mark.parametrize("config", EXAMPLES, ids=lambda path: path.stem)
def test_the_verifier_of_an_example_accepts_its_expert_solutions(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found, counts = load_experiment(config), InputCounts()
    with closing(ProblemIndex()) as seen, gold_pool(found) as pool:
        items = list(screen_problems(found, load_chat(found.policy), seen, counts, pool))
    assert len(items) == counts.problems == 10 and counts.gold_findings == {FINDINGS.get(config.stem, "sound"): 10}
