r"""The text that counts as the answer: one behaviour per row."""

import time

import pytest

from ossft_ray.common.latex import find_boxes
from ossft_ray.method.prompts import mask_answer
from ossft_ray.verification.answers import answer_text, conclusion, final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),  # an escaped brace closes nothing
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{1}, no: \fbox{2}", "2"),
        (r"$\framebox{204}$ minutes", "204"),
        (r"\boxed {7}", "7"),
        (r"\boxed{ 7 }", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \fbox{5}}", r"x = \fbox{5}"),
        (r"\boxed{5} goes into \boxed{}", "5"),
        (r"\boxed{5} and cut \boxed{\frac{1}", "5"),
        (r"cut \boxed{ but \boxed{6}", "6"),
        (r"} stray \boxed{8}", "8"),
        ("24 = 72\n#### 72", "72"),
        ("#### 72\n\n", "72"),
        ("#### 1,234", "1,234"),
        ("#### 1\n#### 2", "2"),
        ("\\boxed{3}\n#### 4", "3"),
        ("#### 5\nThe answer is: 5", "5"),  # MetaMathQA
        ("#### x + 1\nThe answer is: x + 1", "x + 1"),
        ("#### 5\nThe answer is: 6", None),
        ("#### Step 1\nAdd them.", None),
        ("####", None),
        (r"\boxed{}", None),
        (r"\boxed{5", None),
        ("boxed{5}", None),
        ("the answer is 5", None),
        ("", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        ("It is 5.", "It is 5."),
        ("<think>3</think>It is 5.", "It is 5."),
        ("3</think>It is 5.", "It is 5."),  # the chat template may contain the opening tag
        ("</think>a</think>b", "b"),
        ("Well. <think>\\boxed{3}", "Well. "),  # truncated while thinking
    ],
)
def test_only_what_follows_the_thinking_counts(response: str, rest: str) -> None:
    assert conclusion(response) == rest


@pytest.mark.parametrize(
    ("value", "text"),
    [("5", "5"), (" x ", "x"), (5, "5"), (27.0, "27"), (0.5, "0.5"), (["2"], "2"), (["1", 2.0], "1, 2"), (None, "")],
)
def test_answer_cells_become_text(value: object, text: str) -> None:
    assert answer_text(value) == text


@pytest.mark.parametrize(
    ("solution", "masked"),
    [
        (r"a \boxed{\frac{1}{2}} b", r"a \boxed{?} b"),
        (r"\fbox{1} and \boxed{2}", r"\fbox{?} and \boxed{?}"),
        (r"\boxed{\boxed{2}}", r"\boxed{?}"),
        (r"cut \boxed{12", r"cut \boxed{?"),
        (r"cut \boxed{1 \boxed{2} 3", r"cut \boxed{?"),
        ("72\n#### 72", "72\n#### ?"),
    ],
)
def test_a_masked_guide_hides_what_counts_as_the_answer(solution: str, masked: str) -> None:
    assert mask_answer(solution) == masked


@pytest.mark.parametrize(
    "hostile",
    ["#### 5" + " " * 200_000 + "\nx", r"\boxed{" * 100_000, r"\boxed{}" * 100_000, "\\boxed{" * 50_000 + "}" * 50_000],
)
def test_boxes_are_found_in_linear_time(hostile: str) -> None:
    started = time.process_time()
    find_boxes(hostile)
    final_answer(hostile)
    assert time.process_time() - started < 5
