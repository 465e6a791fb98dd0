"""Screening of the input: ids, prompt lengths, overlap with benchmarks, repeated questions; all counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment, Policy, resolve
from ossft_ray.data.problem_index import ProblemIndex
from ossft_ray.data.problems import Rejection
from ossft_ray.data.screening import InputCounts, UsableProblem, screen_problems
from ossft_ray.policy.chat import Chat, load_chat

HELD_OUT = " ".join(f"word{number}" for number in range(20))
SHARED = " ".join(f"word{number}" for number in range(13))
LONG = "1 + 1" * 2000
SAME = "duplicate_question: same as 1"


@pytest.fixture(scope="module")
def chat() -> Chat:
    return load_chat(Policy(model="playground"))


def row(problem_id: Any, question: str, answer: str = "2") -> dict[str, Any]:
    return {"id": problem_id, "problem": question, "answer": answer, "solution": "s"}


def experiment_on(folder: Path, rows: list[dict[str, Any]], **data: Any) -> Experiment:
    (folder / "x.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "bench.jsonl").write_text(json.dumps({"id": 7, "problem": HELD_OUT, "answer": "1"}))
    return resolve(
        {
            "policy": {"model": "playground"},
            "data": {"path": str(folder / "x.jsonl"), **data},
            "evaluate": {"benchmarks": [str(folder / "bench.jsonl"), "playground/level1"]},
        }
    )


def screen(
    experiment: Experiment, chat: Chat, *existing: Problem
) -> tuple[list[UsableProblem | Rejection], InputCounts]:
    index, counts = ProblemIndex(), InputCounts()
    for problem in existing:
        index.add_existing(problem)
    items = list(screen_problems(experiment, chat, index, counts))
    index.close()
    return items, counts


def outcome(item: UsableProblem | Rejection) -> str:
    """The outcome of a row in one word, with its notes."""
    return item.reason if isinstance(item, Rejection) else " & ".join(["ok", *item.notes])


def contaminated(folder: Path) -> str:
    return f'contaminated: {folder}/bench.jsonl/7 shares "{SHARED}"'


@pytest.mark.parametrize(
    "rows, data, outcomes",
    [
        ([row(1, "q"), row(2, "Q?")], {}, ["ok", f"ok & {SAME}"]),
        ([row(1, "q"), row(2, "Q?")], {"duplicates": "drop"}, ["ok", SAME]),
        ([row(1, "q"), row(1, "r")], {}, ["ok", "duplicate_id"]),
        ([row(1, "q"), row(2, "q"), row(3, "q")], {"duplicates": "drop"}, ["ok", SAME, SAME]),
        # a row that is set aside does not count as the first one
        ([row(1, "q", ""), row(1, "q"), row(2, "q")], {"duplicates": "drop"}, ["no_answer", "ok", SAME]),
        ([row(1, LONG), row(1, "q")], {}, ["prompt_too_long", "ok"]),
        ([row(1, HELD_OUT), row(1, "q")], {"contamination": "drop"}, ["contaminated", "ok"]),
        ([row(1, "q"), row(2, "q"), row(2, "r")], {"duplicates": "drop"}, ["ok", SAME, "ok"]),
        # overlap
        ([row(1, f"Now {HELD_OUT}!")], {}, ["ok & contaminated"]),
        ([row(1, HELD_OUT), row(2, HELD_OUT)], {}, ["ok & contaminated", f"ok & contaminated & {SAME}"]),
        ([row(1, HELD_OUT)], {"contamination_ngram": 21}, ["ok & contaminated"]),
        ([row(1, f"Now {HELD_OUT}")], {"contamination_ngram": 21}, ["ok"]),
        ([row(1, f"Now {HELD_OUT}")], {"contamination": "ignore"}, ["ok"]),
        # rows without an answer
        ([row(1, "q", ""), row(2, "q", "proof")], {"no_answer": "expert"}, ["ok", f"ok & {SAME}"]),
    ],
)
def test_outcomes_of_rows(
    tmp_path: Path, chat: Chat, rows: list[dict[str, Any]], data: dict[str, Any], outcomes: list[str]
) -> None:
    items, counts = screen(experiment_on(tmp_path, rows, **data), chat)
    found = [outcome(item) for item in items]
    assert len(found) == len(outcomes)
    for each, wanted in zip(found, outcomes, strict=True):
        assert all(any(note.startswith(want) for note in each.split(" & ")) for want in wanted.split(" & ")), each
        assert len(each.split(" & ")) == len(wanted.split(" & ")), each
    kept = [item for item in items if isinstance(item, UsableProblem)]
    assert counts.problems == len(kept)
    assert counts.rejected.total() == len(items) - len(kept)
    assert counts.rejected.keys() == {item.reason.partition(":")[0] for item in items if isinstance(item, Rejection)}
    assert counts.duplicates == sum("duplicate_question" in each for each in found)
    overlaps = {} if data.get("contamination") == "ignore" else {f"{tmp_path}/bench.jsonl": 0, "playground/level1": 0}
    assert counts.contamination.keys() == overlaps.keys()
    assert sum(counts.contamination.values()) == sum("contaminated" in each for each in found)


def test_an_overlap_is_named_whether_dropped_or_reported(tmp_path: Path, chat: Chat) -> None:
    rows = [row(1, f"Now {HELD_OUT}"), row(2, "q")]
    (kept, _), counts = screen(experiment_on(tmp_path, rows), chat)
    assert isinstance(kept, UsableProblem) and kept.notes == (contaminated(tmp_path),)
    assert counts.contamination == {f"{tmp_path}/bench.jsonl": 1, "playground/level1": 0}
    (dropped, _), counts = screen(experiment_on(tmp_path, rows, contamination="drop"), chat)
    assert isinstance(dropped, Rejection) and dropped.reason == contaminated(tmp_path)
    assert counts.contamination == {f"{tmp_path}/bench.jsonl": 1, "playground/level1": 0}
    assert counts.rejected == {"contaminated": 1}


def test_an_unreadable_benchmark_is_listed_or_refused(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row(1, "q")])
    evaluate = experiment.evaluate.model_copy(update={"benchmarks": ["aime24", "playground/level2"]})
    _, counts = screen(experiment.model_copy(update={"evaluate": evaluate}), chat)
    assert (counts.not_checked, counts.contamination) == (["aime24"], {"playground/level2": 0})
    data = experiment.data.model_copy(update={"contamination": "drop"})
    with pytest.raises(InputError, match=r"benchmark 'aime24': .* the Hub's data set cannot be read"):
        screen(experiment.model_copy(update={"evaluate": evaluate, "data": data}), chat)


def test_existing_problems_are_recognised(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row("new", "q"), row(1, "q"), row(2, "r")], duplicates="drop")
    items, _ = screen(experiment, chat, Problem("1", "q", "2", "s"))
    assert [outcome(item) for item in items] == ["duplicate_question: same as 1", "ok", "ok"]
    assert [item.status for item in items if isinstance(item, UsableProblem)] == ["existing", "new"]


def test_a_changed_existing_problem_is_refused(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row(5, "q"), row(1, "q")])
    with pytest.raises(
        InputError, match=r"x\.jsonl, row 2: problem '1' asks a different question from the one that this run has"
    ):
        screen(experiment, chat, Problem("1", "r", "2", "s"))


class CharacterChat:
    """A chat whose prompts have a token for each character of the question, and ten more."""

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        return [0] * (10 + len(messages[-1]["content"]))


@pytest.mark.parametrize(
    "template, context_length, num_tokens",
    [("{question}", 111, None), ("{question}", 110, 110), ("{question}{question}", 210, 210)],
)
def test_a_prompt_must_leave_a_token_for_the_response(
    tmp_path: Path, template: str, context_length: int, num_tokens: int | None
) -> None:
    experiment = experiment_on(tmp_path, [row(1, "x" * 100), row(2, "x")], contamination="ignore")
    prompts = experiment.prompts.model_copy(update={"solve": template, "system": ""})
    (item, _), _ = screen(
        experiment.model_copy(update={"prompts": prompts}),
        CharacterChat(context_length),  # type: ignore[arg-type]
    )
    expected = f"prompt_too_long: {num_tokens} tokens, and the policy's context is {context_length}"
    assert outcome(item) == ("ok" if num_tokens is None else expected)


def test_input_without_a_usable_row_is_refused_with_the_first_reason(tmp_path: Path, chat: Chat) -> None:
    with pytest.raises(InputError, match=r"holds no usable problem; .*x\.jsonl, row 1: no_question"):
        screen(experiment_on(tmp_path, [row(1, ""), row(2, "q", "")]), chat)
