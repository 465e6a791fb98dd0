"""The kind `choice`: one behaviour per row."""

import pytest

from ossft_ray.verification.kinds.choice import check_answer, grade, read_options

PLAIN = "How many?\n(A) 6 (B) seven\n(C) 8"
LATEX = r"What is $1+1$?" + "\n" + r"$\textbf{(A)}\ 1 \qquad\textbf{(B)}\ 2 \qquad\textbf{(C)}\ -2$"
LINES = "Which?\nA. red\nB. green\nC. a blue one\nD. none"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (PLAIN, {"A": "6", "B": "seven", "C": "8"}),
        (LATEX, {"A": "1", "B": "2", "C": "-2"}),
        (LINES, {"A": "red", "B": "green", "C": "a blue one", "D": "none"}),
        ("A. B. Smith asks: which?\nA) x\nB) y", {"A": "x", "B": "y"}),
        ("**A:** left\n**B:** right", {"A": "left", "B": "right"}),
        ("A) x\nB) y\n\nChoose one and explain.", {"A": "x", "B": "y"}),
        ("Only (A) is an option.", {}),
        ("No options.", {}),
        ("", {}),
    ],
)
def test_options_are_read_from_the_question(question: str, options: dict[str, str]) -> None:
    assert read_options(question) == options


@pytest.mark.parametrize(
    ("question", "answer", "response", "reason"),
    [
        (PLAIN, "B", r"\boxed{B}", "correct"),
        (PLAIN, "B", r"\boxed{seven}", "correct"),
        (PLAIN, "seven", "The answer is B.", "correct"),
        (PLAIN, "(B)", "The answer is (B) because it is.", "correct"),
        (PLAIN, "B", r"\boxed{8}", "wrong"),
        (PLAIN, "B", r"\boxed{D}", "unparsed"),  # no such option
        (PLAIN, "B", r"\boxed{9}", "unparsed"),
        (LATEX, "B", r"\boxed{\textbf{(B)}\ 2}", "correct"),
        (LATEX, "B", r"\boxed{2}", "correct"),
        (LATEX, "B", r"\boxed{-2}", "wrong"),  # the sign makes it another option
        (LINES, "C", "The correct answer is **C**.", "correct"),
        (LINES, "C", "C", "correct"),
        (LINES, "C", "<think>A or C?</think>\n\nC.", "correct"),
        (LINES, "C", "The answer is A blue one.", "correct"),  # the option's text, not the letter
        ("", "B", "The answer is (B), not (C).", "unparsed"),
        ("", "B", r"\boxed{B, C}", "wrong"),
        ("", "B", r"\boxed{Because}", "unparsed"),
        ("", "B", r"\boxed{c}", "wrong"),
        ("", "B", "I think that it may be true.", "no_answer"),
        ("", "", r"\boxed{B}", "no_gold"),
    ],
)
def test_grade(question: str, answer: str, response: str, reason: str) -> None:
    verdict = grade(answer, response, question=question)
    assert (verdict.reason, verdict.correct) == (reason, reason == "correct")


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        (PLAIN, "C", "correct"),
        (PLAIN, "8", "correct"),
        (PLAIN, "E", "unparsed"),
        (PLAIN, "A, C", "correct"),
        (PLAIN, "A, D", "unparsed"),
        (PLAIN, "A, A", "unparsed"),
        ("", "B", "correct"),
        ("", "seven", "unparsed"),
        ("", " ", "no_gold"),
    ],
)
def test_a_gold_answer_must_be_an_option(question: str, answer: str, reason: str) -> None:
    assert check_answer(answer, question=question).reason == reason
