"""Word-by-word differences: what is marked, and that marking is safe and fast on any text."""

import html
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossft_ray.report.word_difference import mark_differences


@pytest.mark.parametrize(
    "before, after, marked",
    [
        ("It is 2.", "It is 2.", ("It is 2.", "It is 2.")),
        ("It is 2.", "It is 3.", ("It is <del>2</del>.", "It is <ins>3</ins>.")),
        ("a b c", "a c", ("a <del>b</del> c", "a c")),
        ("a  b", "a\nb", ("a  b", "a\nb")),  # space is no difference
        ("6*8=48", "6*9=54", ("6*<del>8</del>=<del>48</del>", "6*<ins>9</ins>=<ins>54</ins>")),
        ("", "x y", ("", "<ins>x y</ins>")),
        ("<b> & 1", "<i> & 1", ("&lt;<del>b</del>&gt; &amp; 1", "&lt;<ins>i</ins>&gt; &amp; 1")),
    ],
)
def test_words_of_only_one_text_are_marked(before: str, after: str, marked: tuple[str, str]) -> None:
    assert mark_differences(before, after) == marked


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_without_the_marks_both_texts_are_whole(before: str, after: str) -> None:
    for text, marked in zip((before, after), mark_differences(before, after), strict=True):
        assert html.unescape(re.sub("</?(?:ins|del)>", "", str(marked))) == html.unescape(html.escape(text))


@pytest.mark.parametrize("pair", [("a b " * 5_000, "b a a " * 5_000), ("<&>" * 9_000, "&<>" * 9_000)])
def test_no_text_takes_long(pair: tuple[str, str]) -> None:
    began = time.process_time()
    mark_differences(*pair)
    assert time.process_time() - began < 2
