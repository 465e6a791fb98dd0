"""Mentions of the reference and copies from it are found, and ordinary mathematics is taken for neither."""

import random
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossft_ray.config import GuidedAlignment
from ossft_ray.method.acceptance import copied_share, mentions_reference
from tests.data_folder import needs_data, read_data

MAX_COPIED = GuidedAlignment().max_copied


@pytest.mark.parametrize(
    "response, phrase",
    [
        ("The reference solution adds first.", "reference solution"),
        ("As the provided solution shows, x = 2.", "provided solution"),
        ("THE PROVIDED SOLUTION says so", "provided solution"),
        ("the provided\n   solution says so", "provided solution"),
        ("the **provided** solution says so", "provided solution"),
        ("the **provided solution**: x = 2", "provided solution"),
        ('the "provided" solution: x = 2', "provided solution"),
        ("the “provided solution”", "provided solution"),
        (r"\text{provided solution}", "provided solution"),
        ("This is the expert's solution.", "expert's solution"),
        ("This is the expert’s solution.", "expert's solution"),
        ("Like in the expert solution, we add.", "expert solution"),
        ("According to the reference, x = 2.", "according to the reference"),
        ("Based on the reference I get 5.", "based on the reference"),
        ("I was stuck, but the reference uses symmetry.", "the reference uses"),
        ("following the given solution, we add", "following the given solution"),
        ("As in the Teacher’s **solution**, we add 2.", "teacher's solution"),
        ("This agrees with the teacher's answer.", "teacher's answer"),
        ("The tutor's approach is to factor first.", "tutor's approach"),
        ("The given solution shows that x = 2.", "the given solution shows"),
        ("This matches the given answer.", "matches the given answer"),
        ("Looking at the solution provided, x = 2.", "the solution provided,"),
        ("I follow the solution provided above.", "solution provided above"),
        ("As in the solution above, let x = 2.", "the solution above"),
        ("the solution you provided is right", "solution you provided"),
        ("which is also the provided answer", "provided answer"),
    ],
)
def test_a_mention_is_found(response: str, phrase: str) -> None:
    assert mentions_reference(response) == phrase
    assert mentions_reference(f"{'We add. ' * 1000}{response}") == phrase


@pytest.mark.parametrize(
    "response",
    [
        "",
        "The given equation has the solution x = 2.",
        "Hence the given solution set is {1, 2}.",
        "The teacher's salary is 40 dollars, and the teachers' solutions of salt weigh 3 grams.",
        "The teacher gives each of 5 pupils 4 pencils, so 20 pencils.",
        "The provided solution set is empty.",
        "The provided solution sets are empty.",
        r"Substituting the given solution $x = 3$ into the equation",
        "The given solution contains 5 liters of acid.",
        "The solution provided by the quadratic formula is x = 2.",
        "A solution is given by x = 2.",
        "The solution given by Cramer's rule is unique.",
        "The reference angle is 30 degrees.",
        "Based on the reference angle, the sine is 1/2.",
        "According to the reference frame of the train, it stands still.",
        "following the reference lines",
        "With reference to Lemma 2, write",
        "Take the reference triangle ABC.",
        "None of the provided answer choices is 7.",
        "The intersection of the solutions above is empty.",
        "an unprovided solution",
        "provided solutions exist",
        "Provided that a solution exists, it is unique.",
        "After 10,000 hours you become an expert.",
        "The answer is 5, provided that x > 0.",
        "The original solution contains 20% of salt.",
        "The sum of the given solutions is 5.",
        "the model's answer",
    ],
)
def test_ordinary_mathematics_mentions_nothing(response: str) -> None:
    assert mentions_reference(response) is None


@pytest.mark.parametrize(
    "response, phrases, found",
    [
        ("The cheat sheet says 5.", ["cheat sheet"], "cheat sheet"),
        ("The cheat\tsheet says 5.", ["Cheat  Sheet"], "cheat sheet"),
        ("a cheat sheet, the key", ["the key", "cheat sheet"], "the key"),
        ("The cheat sheets", ["cheat sheet"], None),
        ("a (hint) b", ["(hint)"], "(hint)"),
        ("根据参考答案可知", ["参考答案"], "参考答案"),
        ("anything", [], None),
        ("anything", ["", "  "], None),
        ("The reference solution", [], None),
    ],
)
def test_the_user_may_choose_the_phrases(response: str, phrases: list[str], found: str | None) -> None:
    assert mentions_reference(response, phrases) == found


@pytest.mark.parametrize(
    "response, found",
    [
        ("Your answer was incorrect.", "your answer was"),
        ("Your explanation of the solution is correct", "your explanation"),
        ("This is indeed a step-by-step solution to the problem.", "is indeed a step-by-step solution"),
        ("This answer was just a reference.", "just a reference"),
        ("Avoid copying the solution; it is 113.", "avoid copying"),
        ("Say it with your own words, or in your own words.", "in your own words"),
        ("This is a classic math problem.", "this is a classic math problem"),
        ("You have provided the steps.", "you have provided"),
        ("My friend’s notes say 5.", "friend's notes"),
        ("I hope this helps.", "i hope this"),
    ],
)
def test_talk_about_the_guide_the_reader_and_the_task_is_found(response: str, found: str) -> None:
    assert mentions_reference(response) == found


@pytest.mark.parametrize(
    "phrase, texts",
    [
        ("(a|b) c", ["a c", "b c"]),
        ("x (of |)(a|b)|c", ["x of a", "x b", "c"]),
        ("(a.c|b)", ["a.c", "b"]),
        ("a(b", ["a(b"]),
    ],
)
def test_alternatives_of_a_phrase(phrase: str, texts: list[str]) -> None:
    for text in texts:
        assert mentions_reference(f"so {text} it is", [phrase]) == text
    assert mentions_reference("so abc it is", [phrase]) is None


GUIDE = "First we add 2 and 3, which gives 5 apples in all, and then we share them."


@pytest.mark.parametrize(
    "response, guide, ngram, share",
    [
        ("a b c d", "a b c d", 4, 1.0),
        ("a b c d", "x a b c d y", 4, 1.0),
        ("a b c x", "a b c d", 4, 0.0),
        ("x a b c d", "a b c d y", 4, 4 / 5),
        ("a b c d e x", "a b c d y b c d e", 4, 5 / 6),  # overlapping runs count their words once
        ("a b c d x a b c d", "a b c d", 4, 8 / 9),
        ("a b c d", "a b c d", 1, 1.0),
        ("a x b", "b a", 1, 2 / 3),
        ("a b", "a b", 4, 1.0),
        ("a b", "a b c d", 4, 0.0),
        ("", "", 4, 0.0),
        ("", "a b c d", 4, 0.0),
        ("a b c d", "", 4, 0.0),
        ("$$ + =", "$$ + =", 1, 0.0),
        (GUIDE, GUIDE, 8, 1.0),
        (GUIDE.upper(), GUIDE, 8, 1.0),
        (re.sub(r"[,.]", " ;\n", GUIDE), GUIDE, 8, 1.0),
        ("He sold 48/2 = <<48/2=24>>24 clips", "he sold 48 / 2 = 24 clips", 6, 1.0),
        ("It costs $1,000.50", "it costs 1000.50", 3, 1.0),
        ("It costs 1,000", "it costs 1001", 3, 0.0),
        (r"\left(\frac{a}{b}\right) \text{ is } c", r"(\frac{a}{b}) is c", 5, 1.0),
        (r"\Delta a b c", r"\delta a b c", 4, 0.0),
        (r"a \\ b \\c d", "a b c d", 4, 1.0),
        ("小明有五个苹果", "小红有五个苹果", 5, 5 / 7),
        ("a_1 b_2", "a 1 b 2", 4, 1.0),
    ],
)
def test_copied_share(response: str, guide: str, ngram: int, share: float) -> None:
    assert copied_share(response, guide, ngram) == pytest.approx(share)


SHORT_TEXTS = st.lists(st.sampled_from("abc"), max_size=20)


@given(SHORT_TEXTS, SHORT_TEXTS, st.integers(1, 12))
def test_copied_share_equals_its_definition(response: list[str], guide: list[str], ngram: int) -> None:
    """A word counts as copied if some window of `ngram` words around it also occurs in the guide."""
    windows = {tuple(guide[start : start + ngram]) for start in range(len(guide) - ngram + 1)}
    copied = [
        any(
            tuple(response[start : start + ngram]) in windows
            for start in range(max(0, place - ngram + 1), min(place, len(response) - ngram) + 1)
        )
        for place in range(len(response))
    ]
    if len(response) >= ngram:
        assert copied_share(" ".join(response), " ".join(guide), ngram) == pytest.approx(sum(copied) / len(response))


@pytest.mark.thorough
@pytest.mark.parametrize("piece", ["a ", "alpha beta ", "<<", "<<a", "\\", "1", ",111", "a", " ", "provided *", "{"])
@pytest.mark.parametrize("ngram", [8, 1000])
def test_a_megabyte_of_any_content_takes_seconds(piece: str, ngram: int) -> None:
    text = piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert 0 <= copied_share(text, text[::-1], ngram) <= 1
    mentions_reference(text)
    assert time.process_time() - started < 20


def solutions(name: str) -> list[str]:
    return [row["answer" if name == "gsm8k_train" else "solution"] for row in read_data(name)]


@needs_data
def test_texts_written_without_a_reference_hardly_ever_mention_one() -> None:
    def texts() -> Iterator[str]:
        for name in ("gsm8k_train", "math500", "minerva_math", "olympiadbench", "aime24", "amc23"):
            for row in read_data(name):
                for value in row.values():
                    yield from (
                        part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)
                    )

    found = [phrase for text in texts() if (phrase := mentions_reference(text))]
    assert len(found) <= 14  # most in olympiadbench, whose solutions refer to other solutions


@needs_data
@pytest.mark.parametrize("name", ["gsm8k_train", "math500"])
def test_solutions_of_different_problems_share_nothing(name: str) -> None:
    rng, texts = random.Random(0), solutions(name)
    shares = [copied_share(*rng.sample(texts, 2), ngram=8) for _ in range(2000)]
    assert max(shares) < 0.2
    assert sum(share > 0 for share in shares) <= 2


@needs_data
def test_two_solutions_of_one_problem_share_little() -> None:
    several = [row["solution"] for row in read_data("olympiadbench") if len(row["solution"]) > 1]
    shares = sorted(copied_share(a, b, ngram=8) for texts in several for a in texts for b in texts if a is not b)
    assert len(shares) > 400
    assert shares[len(shares) // 2] < 0.05
    # The others begin with the same words as another solution.
    assert sum(share <= MAX_COPIED for share in shares) > 0.89 * len(shares)


@needs_data
@pytest.mark.parametrize("name", ["gsm8k_train", "math500"])
def test_a_lightly_edited_copy_is_a_copy(name: str) -> None:
    """The names, the calculation notes and one sentence are edited."""
    rng = random.Random(0)

    def edit(text: str) -> str:
        for person in sorted(set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text))):
            text = re.sub(rf"\b{person}\b", "Zoe", text)
        sentences = re.split(r"(?<=\.)\s|\n", re.sub(r"<<.*?>>", "", text))
        sentences[rng.randrange(len(sentences))] = "Now something else comes out of this."
        return "\n".join(sentences)

    long_ones = [text for text in solutions(name) if len(text.split()) >= 60][:1000]
    shares = sorted(copied_share(edit(text), text, ngram=8) for text in long_ones)
    assert len(shares) > 100
    assert shares[len(shares) // 2] > 0.7
    assert sum(share > MAX_COPIED for share in shares) > 0.9 * len(shares)
