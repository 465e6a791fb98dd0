"""Answers side by side: which problems are shown, and with which verdicts."""

from pathlib import Path

from ossft_ray.report.answers import choose_answers
from ossft_ray.run_folder.reader import open_rounds
from tests.report.runs import write_answers, write_run


def test_pairs_show_the_first_samples_and_count_the_others(tmp_path: Path) -> None:
    run = write_run(str(tmp_path))
    write_answers(run, "base", {"a": "-+-", "b": "+--", "c": "+++", "d": "---", "only base": "+"})
    write_answers(run, "trained", {"d": "--+", "c": "+--", "b": "-++", "a": "+++"})
    found = choose_answers(open_rounds(run)[0], 10)
    assert found is not None and found.model == "trained"
    assert found.num_all == {"now correct": 1, "now wrong": 1, "correct in both": 1, "wrong in both": 1}
    first = found.rows[0]
    assert (first["problem_id"], first["change"], first["question"]) == ("a", "now correct", "Question a?")
    assert [(side["name"], side["response"], side["reason"], side["num_correct"]) for side in first["sides"]] == [
        ("base", "base says -0", "wrong", 1),
        ("trained", "trained says +0", "correct", 3),
    ]


def test_kinds_share_the_rows_and_texts_are_bounded(tmp_path: Path) -> None:
    run = write_run(str(tmp_path))
    write_answers(run, "base", {f"p{number}": "-" for number in range(30)} | {"x": "+"})
    write_answers(run, "trained", {f"p{number}": "-" for number in range(30)} | {"x": "-"})
    found = choose_answers(open_rounds(run)[0], 4)
    assert found is not None
    assert sorted(row["problem_id"] for row in found.rows) == ["p0", "p10", "p20", "x"]
    few = choose_answers(open_rounds(run)[0], 4, max_bytes=100)
    assert few is not None and len(few.rows) == 2  # of 41 characters each


def test_without_samples_or_a_second_model_nothing_is_shown(tmp_path: Path) -> None:
    run = write_run(str(tmp_path))
    assert choose_answers(open_rounds(run)[0], 10) is None
    write_answers(run, "base", {"a": "+"})
    assert choose_answers(open_rounds(run)[0], 10) is None
