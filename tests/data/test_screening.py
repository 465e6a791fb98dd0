"""Which rows become problems: ids, room for a response, overlap with benchmarks, repeated questions; all counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import Problem
from ossft_ray.config import Experiment, Policy, resolve
from ossft_ray.data.problems import Rejection
from ossft_ray.data.screening import Tally, Usable, screen_problems
from ossft_ray.data.seen_problems import Seen
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


def screen(experiment: Experiment, chat: Chat, *held: Problem) -> tuple[list[Usable | Rejection], Tally]:
    seen, tally = Seen(), Tally()
    for problem in held:
        seen.hold(problem)
    items = list(screen_problems(experiment, chat, seen, tally))
    seen.close()
    return items, tally


def fate(item: Usable | Rejection) -> str:
    """What became of a row, in one word with its notes."""
    return item.reason if isinstance(item, Rejection) else " & ".join(["ok", *item.notes])


def contaminated(folder: Path) -> str:
    return f'contaminated: {folder}/bench.jsonl/7 shares "{SHARED}"'


@pytest.mark.parametrize(
    "rows, data, fates",
    [
        ([row(1, "q"), row(2, "Q?")], {}, ["ok", f"ok & {SAME}"]),
        ([row(1, "q"), row(2, "Q?")], {"duplicates": "drop"}, ["ok", SAME]),
        ([row(1, "q"), row(1, "r")], {}, ["ok", "duplicate_id"]),
        ([row(1, "q"), row(2, "q"), row(3, "q")], {"duplicates": "drop"}, ["ok", SAME, SAME]),
        # a row that is set aside is no first one
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
        # an answer of which nothing is known
        ([row(1, "q", ""), row(2, "q", "proof")], {"no_answer": "expert"}, ["ok", f"ok & {SAME}"]),
    ],
)
def test_what_becomes_of_rows(
    tmp_path: Path, chat: Chat, rows: list[dict[str, Any]], data: dict[str, Any], fates: list[str]
) -> None:
    items, tally = screen(experiment_on(tmp_path, rows, **data), chat)
    found = [fate(item) for item in items]
    assert len(found) == len(fates)
    for each, wanted in zip(found, fates, strict=True):
        assert all(any(note.startswith(want) for note in each.split(" & ")) for want in wanted.split(" & ")), each
        assert len(each.split(" & ")) == len(wanted.split(" & ")), each
    kept = [item for item in items if isinstance(item, Usable)]
    assert tally.problems == len(kept)
    assert tally.rejected.total() == len(items) - len(kept)
    assert tally.rejected.keys() == {item.reason.partition(":")[0] for item in items if isinstance(item, Rejection)}
    assert tally.duplicates == sum("duplicate_question" in each for each in found)
    overlaps = {} if data.get("contamination") == "ignore" else {f"{tmp_path}/bench.jsonl": 0, "playground/level1": 0}
    assert tally.contamination.keys() == overlaps.keys()
    assert sum(tally.contamination.values()) == sum("contaminated" in each for each in found)


def test_a_match_is_named_whether_dropped_or_reported(tmp_path: Path, chat: Chat) -> None:
    rows = [row(1, f"Now {HELD_OUT}"), row(2, "q")]
    (kept, _), tally = screen(experiment_on(tmp_path, rows), chat)
    assert isinstance(kept, Usable) and kept.notes == (contaminated(tmp_path),)
    assert tally.contamination == {f"{tmp_path}/bench.jsonl": 1, "playground/level1": 0}
    (dropped, _), tally = screen(experiment_on(tmp_path, rows, contamination="drop"), chat)
    assert isinstance(dropped, Rejection) and dropped.reason == contaminated(tmp_path)
    assert tally.contamination == {f"{tmp_path}/bench.jsonl": 1, "playground/level1": 0}
    assert tally.rejected == {"contaminated": 1}


def test_a_benchmark_that_is_not_there_is_named_or_refused(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row(1, "q")])
    evaluate = experiment.evaluate.model_copy(update={"benchmarks": ["aime24", "playground/level2"]})
    _, tally = screen(experiment.model_copy(update={"evaluate": evaluate}), chat)
    assert (tally.not_checked, tally.contamination) == (["aime24"], {"playground/level2": 0})
    data = experiment.data.model_copy(update={"contamination": "drop"})
    with pytest.raises(InputError, match=r"benchmark 'aime24': .* from the Hub it cannot be read"):
        screen(experiment.model_copy(update={"evaluate": evaluate, "data": data}), chat)


def test_what_a_run_holds_is_known_again(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row("new", "q"), row(1, "q"), row(2, "r")], duplicates="drop")
    items, _ = screen(experiment, chat, Problem("1", "q", "2", "s"))
    assert [fate(item) for item in items] == ["duplicate_question: same as 1", "ok", "ok"]
    assert [item.standing for item in items if isinstance(item, Usable)] == ["held", "new"]


def test_a_held_problem_that_has_changed_is_refused(tmp_path: Path, chat: Chat) -> None:
    experiment = experiment_on(tmp_path, [row(5, "q"), row(1, "q")])
    with pytest.raises(
        InputError, match=r"x\.jsonl, row 2: problem '1' asks another question than what this run holds"
    ):
        screen(experiment, chat, Problem("1", "r", "2", "s"))


class Counting:
    """A chat that counts how often it renders; each character of a question is `expansion` tokens."""

    def __init__(self, context_length: int, expansion: int = 1) -> None:
        self.context_length, self.expansion, self.rendered = context_length, expansion, 0

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        self.rendered += 1
        return [0] * (10 + self.expansion * len(messages[-1]["content"]))


@pytest.mark.parametrize(
    "question, context_length, expansion, fits, num_rendered",
    [
        ("x" * 100, 10 + 401, 1, True, 1),  # only the frame: 4 tokens a character at most
        ("x" * 100, 10 + 400, 1, True, 2),
        ("x" * 100, 10 + 101, 1, True, 2),
        ("x" * 100, 10 + 100, 1, False, 2),
        ("é" * 100, 10 + 2401, 1, True, 1),  # two bytes, each 12 tokens at most
        ("é" * 100, 10 + 2400, 24, False, 2),
        ("\ufdfa" * 100, 10 + 3000, 33, False, 2),  # what NFKC makes of it has 33 bytes
    ],
)
def test_prompts_are_tokenised_only_where_they_may_not_fit(
    tmp_path: Path, question: str, context_length: int, expansion: int, fits: bool, num_rendered: int
) -> None:
    experiment = experiment_on(tmp_path, [row(1, question), row(2, "x")], contamination="ignore")
    prompts = experiment.prompts.model_copy(update={"solve": "{question}", "system": ""})
    counting = Counting(context_length, expansion)
    (item, _), _ = screen(experiment.model_copy(update={"prompts": prompts}), counting)  # type: ignore[arg-type]
    assert isinstance(item, Usable) is fits
    assert counting.rendered == num_rendered


def test_a_prompt_that_says_the_question_twice_counts_it_twice(tmp_path: Path) -> None:
    experiment = experiment_on(tmp_path, [row(1, "x" * 100), row(2, "x")], contamination="ignore")
    prompts = experiment.prompts.model_copy(update={"solve": "{question}{question}", "system": ""})
    (item, _), _ = screen(experiment.model_copy(update={"prompts": prompts}), Counting(450, 3))  # type: ignore[arg-type]
    assert isinstance(item, Rejection)
    assert item.reason == "prompt_too_long: 610 tokens, and the policy's context is 450"


def test_input_without_a_usable_row_is_refused_with_the_first_reason(tmp_path: Path, chat: Chat) -> None:
    with pytest.raises(InputError, match=r"holds no usable problem; .*x\.jsonl, row 1: no_question"):
        screen(experiment_on(tmp_path, [row(1, ""), row(2, "q", "")]), chat)
