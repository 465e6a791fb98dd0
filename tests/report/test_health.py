"""The health of examples by origin, against texts and log-probabilities written by hand."""

from pathlib import Path

import pytest

from ossft_ray.report.health import CORRECTIONS, HEDGES, health_rows
from ossft_ray.run_folder.reader import open_rounds
from tests.report.runs import KEPT, example, write_rewriting, write_run


@pytest.mark.parametrize(
    "text, num_hedges, num_corrections",
    [
        ("So 3 + 4 = 7. The answer is 7.", 0, 0),
        ("Maybe it is 7, or perhaps 8. I think so.", 3, 0),
        ("Wait, no, that is wrong. Let me re-check this. Hmm, actually 7.", 0, 5),
        ("The waiter actually might be the mightiest likelihood.", 1, 1),
    ],
)
def test_words_of_doubt_and_of_correction(text: str, num_hedges: int, num_corrections: int) -> None:
    assert (len(HEDGES.findall(text)), len(CORRECTIONS.findall(text))) == (num_hedges, num_corrections)


def test_figures_by_origin(tmp_path: Path) -> None:
    run = write_run(str(tmp_path))
    texts = {"self": ("Maybe 5.", 20), "guided": ("Wait, 5.", 30), "expert": ("5.", 10)}
    rows = [
        example(number, origin, response=texts[origin][0], response_token_ids=[1] * texts[origin][1])
        for number, origin in enumerate(("self", "self", "guided", "expert"))
    ]
    write_rewriting(run, rows)
    found = {row.pop("origin"): row for row in health_rows(open_rounds(run)[0])}
    assert found["self"] == {
        "rows": 2, "tokens": 20, "hedges": 1000 / 20, "corrections": 0, "copied": 0, "contained": 0,
        "false": None, "unread": None,
        "first_logprob": pytest.approx(KEPT["self"][0]), "mean_logprob": pytest.approx(sum(KEPT["self"]) / 2),
    }  # fmt: skip
    assert (found["guided"]["hedges"], found["guided"]["corrections"]) == (0, pytest.approx(1000 / 30))
    assert (found["expert"]["first_logprob"], found["expert"]["mean_logprob"]) == pytest.approx((-30, -17))


def test_what_is_shared_with_the_expert(tmp_path: Path) -> None:
    solution = "one two three four five six seven eight nine ten"
    texts = {"guided": f"so {solution} and that is it, as it says", "expert": solution}
    rows = [
        example(n, origin, expert_solution=solution, response=text) for n, (origin, text) in enumerate(texts.items())
    ]
    write_rewriting(str(tmp_path), rows)
    guided, expert = health_rows(open_rounds(str(tmp_path))[0])
    assert (guided["copied"], guided["contained"]) == (pytest.approx(10 / 18), 1)
    assert (expert["copied"], expert["contained"]) == (1, 1)


def test_false_and_unread_equations(tmp_path: Path) -> None:
    texts = ["3 + 4 = 7. So 7 * 2 = 15.", "x = 5, and 2 + 2 = 4."]
    write_rewriting(str(tmp_path), [example(n, "guided", response=text) for n, text in enumerate(texts)])
    [row] = health_rows(open_rounds(str(tmp_path))[0])
    assert (row["false"], row["unread"]) == (pytest.approx(1 / 3), pytest.approx(1 / 4))


def test_before_scoring_there_are_no_log_probabilities(tmp_path: Path) -> None:
    write_rewriting(str(tmp_path), [example(0, "guided")])
    [row] = health_rows(open_rounds(str(tmp_path))[0])
    assert (row["origin"], row["rows"], row["first_logprob"], row["mean_logprob"]) == ("guided", 1, None, None)
