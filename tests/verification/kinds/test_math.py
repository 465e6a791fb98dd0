"""The kind `math`: one behaviour per row, then real data."""

import itertools

import pytest

from ossft_ray.common.verdict import Verdict
from ossft_ray.verification.answers import final_answer
from ossft_ray.verification.kinds.math import grade
from tests.data_folder import needs_data, read_data

BINOMIAL = r"\left(\begin{array}{l}5 \\ 2\end{array}\right)"  # as in scanned books


@pytest.mark.parametrize(
    ("answer", "response", "reason", "extracted"),
    [
        ("5", r"\boxed{5}", "correct", "5"),
        ("5", r"\boxed{6}", "wrong", "6"),
        ("5", r"\boxed{5}, no, \boxed{6}", "wrong", "6"),
        ("6", r"<think>\boxed{6}</think>\boxed{5}", "wrong", "5"),
        ("6", r"<think>\boxed{6}", "no_answer", None),
        ("72", "48 + 24 = 72\n#### 72", "correct", "72"),
        ("1234", "#### 1,234", "correct", "1,234"),
        ("1,234", r"\boxed{1234}", "correct", "1234"),
        ("27.0", r"\boxed{27}", "correct", "27"),
        ("0.5", r"\boxed{\frac{1}{2}}", "correct", r"\frac{1}{2}"),
        (r"\frac{1}{2}", r"\boxed{1/2}", "correct", "1/2"),
        (r"\frac{1}{2}", r"\boxed{\frac12}", "correct", r"\frac12"),
        ("18", r"\boxed{\$18}", "correct", r"\$18"),
        ("5", r"\boxed{5\text{ cm}}", "correct", r"5\text{ cm}"),
        ("5", r"\boxed{x = 5}", "correct", "x = 5"),
        ("2024-03-05", r"\boxed{2024-05-03}", "wrong", "2024-05-03"),
        ("2024-03-05", r"\boxed{2016}", "wrong", "2016"),
        ("2024-03-05", r"\boxed{2024-03-05}", "correct", "2024-03-05"),
        ("3 m/s", r"\boxed{3\ \mathrm{m/s}}", "correct", r"3\ \mathrm{m/s}"),
        ("3 m/s", r"\boxed{3\text{ m/s}^2}", "wrong", r"3\text{ m/s}^2"),
        ("x^2+2x+1", r"\boxed{(x+1)^2}", "correct", "(x+1)^2"),
        ("x^2+2x", r"\boxed{(x+1)^2}", "wrong", "(x+1)^2"),
        ("1, 2", r"\boxed{2, 1}", "correct", "2, 1"),
        ("(1, 2)", r"\boxed{(2, 1)}", "wrong", "(2, 1)"),
        ("[0, 1)", r"\boxed{[0, 1]}", "wrong", "[0, 1]"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}", "correct", "Evelyn"),
        (r"\text{Evelyn}", r"\boxed{\text{Peter}}", "wrong", r"\text{Peter}"),
        ("0.333", r"\boxed{0.333...}", "unparsed", "0.333..."),
        ("5", "The answer is 5.", "correct", "5"),
        ("5", "So the final answer is $x = 5$.", "correct", "x = 5"),
        ("5", "The answer is 6.", "wrong", "6"),
        ("5", "The answer is 5 apples, since 6 is too many.", "correct", "5 apples, since 6 is too many"),
        ("5", "The answer is therefore $2+3=\\mathbf{5 .}$", "correct", r"2+3=\mathbf{5 .}"),
        ("23", r"\boxed{\mathbf{2 3}}", "correct", r"\mathbf{2 3}"),  # spaces in mathematics are ignored
        ("5", r"\boxed{2 + 3 = 5}", "correct", "2 + 3 = 5"),
        ("5", r"\boxed{x^2 = 5}", "wrong", "x^2 = 5"),
        ("5", "The answer is $2x = 10 / 2 = 5$.", "correct", "2x = 10 / 2 = 5"),
        ("5", "The answer is $2x = 5$.", "wrong", "2x = 5"),
        ("18", "The answer is $18 a week and $20 a month.", "wrong", "$18 a week and $20 a month"),
        (r"\binom{5}{2}", rf"\boxed{{{BINOMIAL}}}", "correct", BINOMIAL),
        ("5", "### Final Answer\n\n**5**", "correct", "5"),
        ("5", "I see 5 apples and give up.", "no_answer", None),
        ("5", "The answer is 5. " + "Then I thought about it. " * 40, "no_answer", None),
        ("5", "", "no_answer", None),
        ("5", r"\boxed{}", "no_answer", None),
        ("5", r"\boxed{\frac{1}{ = 5}", "no_answer", None),
        ("5", r"\boxed{x^2 + = 5 +}", "unparsed", "x^2 + = 5 +"),  # no number is picked out of it
        ("@@", r"\boxed{@@}", "correct", "@@"),  # a gold answer that does not parse is compared as text
        ("@@ A", r"\boxed{@@  a.}", "correct", "@@  a."),
        ("@@", r"\boxed{5}", "wrong", "5"),
        ("", r"\boxed{5}", "no_gold", None),
        ("5", "\\boxed{\ud800}", "unparsed", "?"),  # half of a surrogate pair
    ],
)
def test_grade(answer: str, response: str, reason: str, extracted: str | None) -> None:
    assert grade(answer, response) == Verdict(reason == "correct", reason, extracted)


@needs_data
def test_official_solutions_of_math500_verify_and_fail_against_the_next_answer() -> None:
    rows = read_data("math500")[:60]
    misses = [row["answer"] for row in rows if not grade(row["answer"], row["solution"]).correct]
    assert misses == []
    for row in rows:  # the space command makes the texts differ, so that Math-Verify must find them equal
        assert grade(row["answer"], rf"\boxed{{{final_answer(row['solution'])} \,}}").correct, row["answer"]
    for row, other in itertools.pairwise(rows):
        if row["answer"].split("=")[-1] != other["answer"].split("=")[-1]:  # x=5 is 5
            assert grade(other["answer"], row["solution"]).reason == "wrong", (other["answer"], row["answer"])


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        (r"\boxed{\textbf{(C)}\ 6}", True),
        (r"\boxed{C}", True),
        (r"\boxed{6}", True),
        (r"\boxed{B}", False),
        (r"\boxed{5}", False),
    ],
)
def test_an_option_may_be_given_by_its_letter_or_its_text(response: str, correct: bool) -> None:
    assert grade("C", response, question="Which is 2 + 4?\n(A) 4\n(B) 5\n(C) 6").correct is correct
