"""Where does a model's thinking end and its answer begin? For models that think in `<think>` blocks.

| response                    | thinking | answer  | unclosed                                        |
|-----------------------------|----------|---------|-------------------------------------------------|
| `It is 5.`                  |          | `It is 5.` | no; yes where the prompt opened the block    |
| `<think>3?</think>It is 5.` | `3?`     | `It is 5.` | no                                           |
| `3?</think>It is 5.`        | `3?`     | `It is 5.` | no: the prompt opened the block              |
| `<think>3? Or`              | `3? Or`  |         | yes                                             |

The answer is what verification reads (`conclusion` in `verification/answers.py`).
"""

OPEN, CLOSE = "<think>", "</think>"


def split_thinking(text: str, opened_by_prompt: bool = False) -> tuple[str, str]:
    """The thinking of a response and its answer: what stands before and after the last `</think>`.

    The tags around the thinking are left out. A block that never closes is all thinking, and what comes before it
    the answer.

    Args:
        opened_by_prompt: the chat template ends the prompt with `<think>`, so that the response begins inside.

    >>> split_thinking("<think>3?</think>It is 5.")
    ('3?', 'It is 5.')
    """
    thinking, closed, answer = text.rpartition(CLOSE)
    if closed:
        before, _, inside = thinking.partition(OPEN)
        return before + inside, answer
    if opened_by_prompt:
        return text.replace(OPEN, "", 1), ""
    answer, _, thinking = text.partition(OPEN)
    return thinking, answer


def is_unclosed(text: str, opened_by_prompt: bool = False) -> bool:
    """Whether a response ends while it still thinks: a block, its own or the prompt's, was opened and never closed.

    >>> is_unclosed("Add 2. Or no", opened_by_prompt=True)
    True
    """
    last_open, last_close = text.rfind(OPEN), text.rfind(CLOSE)
    return last_open > last_close or (opened_by_prompt and last_close < 0)
