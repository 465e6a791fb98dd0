"""The boundary between thinking and answer, for models that think in `<think>` blocks.

| response                    | thinking | answer     | unclosed                               |
|-----------------------------|----------|------------|----------------------------------------|
| `It is 5.`                  |          | `It is 5.` | no; yes if the prompt opened the block |
| `<think>3?</think>It is 5.` | `3?`     | `It is 5.` | no                                     |
| `3?</think>It is 5.`        | `3?`     | `It is 5.` | no: the prompt opened the block        |
| `<think>3? Or`              | `3? Or`  |            | yes                                    |

Verification reads the same answer (`conclusion` in `verification/answers.py`).
"""

OPEN, CLOSE = "<think>", "</think>"


def split_thinking(text: str) -> tuple[str, str]:
    """The thinking of a response and its answer: the text before and after the last `</think>`.

    The tags around the thinking are left out. If a block never closes, its text is the thinking and the text before
    it the answer.

    >>> split_thinking("<think>3?</think>It is 5.")
    ('3?', 'It is 5.')
    """
    thinking, closed, answer = text.rpartition(CLOSE)
    if closed:
        before, _, inside = thinking.partition(OPEN)
        return before + inside, answer
    answer, _, thinking = text.partition(OPEN)
    return thinking, answer


def is_unclosed(text: str, opened_by_prompt: bool = False) -> bool:
    """Whether a response ends inside a thinking block that it or the end of the prompt opened.

    >>> is_unclosed("Add 2. Or no", opened_by_prompt=True)
    True
    """
    last_open, last_close = text.rfind(OPEN), text.rfind(CLOSE)
    return last_open > last_close or (opened_by_prompt and last_close < 0)
