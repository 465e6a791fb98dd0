"""Thinking and answer are separated as in verification, whoever opened the block."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossft_ray.method.thinking import is_unclosed, split_thinking
from ossft_ray.verification.answers import conclusion

TEXTS = [
    # text, opened by the prompt: thinking, answer, unclosed
    ("It is 5.", False, "", "It is 5.", False),
    ("It is 5.", True, "", "It is 5.", True),
    ("", False, "", "", False),
    ("", True, "", "", True),
    ("<think>3?</think>It is 5.", False, "3?", "It is 5.", False),
    ("<think>3?</think>It is 5.", True, "3?", "It is 5.", False),
    ("3?</think>It is 5.", False, "3?", "It is 5.", False),
    ("3?</think>It is 5.", True, "3?", "It is 5.", False),
    ("\n<think>\n3?\n</think>\n\nIt is 5.", False, "\n\n3?\n", "\n\nIt is 5.", False),
    ("Well. <think>3?</think>It is 5.", False, "Well. 3?", "It is 5.", False),
    ("<think></think>It is 5.", False, "", "It is 5.", False),
    ("<think>3? Or", False, "3? Or", "", True),
    ("<think>3? Or", True, "3? Or", "", True),
    ("Well. <think>3? Or", False, "3? Or", "Well. ", True),
    ("<think>3?</think>", False, "3?", "", False),
    ("<think>3?</think>4.<think>5?</think>It is 5.", False, "3?</think>4.<think>5?", "It is 5.", False),
    ("<think>3?</think>It is<think>5? Or", False, "3?", "It is<think>5? Or", True),
    ("3?</think>It is<think>5? Or", True, "3?", "It is<think>5? Or", True),
]


@pytest.mark.parametrize("text, opened_by_prompt, thinking, answer, unclosed", TEXTS)
def test_thinking_and_answer(text: str, opened_by_prompt: bool, thinking: str, answer: str, unclosed: bool) -> None:
    assert split_thinking(text) == (thinking, answer)
    assert is_unclosed(text, opened_by_prompt) is unclosed


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "\n", "\\boxed{5}"]), max_size=8).map("".join))
def test_verification_reads_the_same_answer(text: str) -> None:
    thinking, answer = split_thinking(text)
    assert answer == conclusion(text)
    for piece in ("a", "\n", "5"):
        assert (thinking + answer).count(piece) == text.count(piece), "only tags may be lost"
