"""The kind `text`: one behaviour per row."""

import pytest

from ossft_ray.verification.kinds.text import check_answer, grade, normalise_text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  U.S.", "us"),
        ('"The Beatles"', "beatles"),
        (r"\text{New York}, NY", "new york ny"),
        ("well-known", "well known"),
        ("ＡＢＣ", "abc"),  # full-width letters
        ("it's", "its"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("-5", "-5"),
        ("10:30", "10:30"),
        ("C#", "c#"),
        ("vitamin A", "vitamin a"),
        ("A", "a"),
    ],
)
def test_normalise_text(text: str, same: str) -> None:
    assert normalise_text(text) == same


@pytest.mark.parametrize(
    ("answer", "response", "settings", "reason"),
    [
        ("Paris", "The answer is Paris.", {}, "correct"),
        ("Paris", r"\boxed{\text{paris}}", {}, "correct"),
        ("Paris", r"\boxed{London}", {}, "wrong"),
        ("Paris", r"\boxed{paris}", {"ignore_case": False}, "wrong"),
        ("a/b", r"\boxed{a b}", {"ignore_punctuation": False}, "wrong"),
        ("apple", r"\boxed{an apple}", {}, "correct"),
        ("apple", r"\boxed{an apple}", {"ignore_articles": False}, "wrong"),
        ('["USA", "United States"]', r"\boxed{united states}", {}, "correct"),
        ('["USA", "United States"]', r"\boxed{Canada}", {}, "wrong"),
        ("[sic]", r"\boxed{sic}", {}, "correct"),
        ("-5", r"\boxed{5}", {}, "wrong"),
        ("Paris", "I like Paris.", {}, "no_answer"),
        ("...", r"\boxed{.}", {}, "no_gold"),
    ],
)
def test_grade(answer: str, response: str, settings: dict[str, bool], reason: str) -> None:
    verdict = grade(answer, response, **settings)
    assert (verdict.reason, verdict.correct) == (reason, reason == "correct")


@pytest.mark.parametrize(
    ("answer", "reason"), [("Paris", "correct"), ('["USA", "US"]', "correct"), ("...", "no_gold"), ("[]", "no_gold")]
)
def test_a_gold_answer_must_contain_text(answer: str, reason: str) -> None:
    assert check_answer(answer, ignore_case=True).reason == reason
