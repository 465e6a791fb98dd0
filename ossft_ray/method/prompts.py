"""The policy's prompts: the plain solve prompt and the guided "digest and retell" prompt.

Source: "Mind the Gap" (arXiv 2509.15157), Section 3, and the Qwen2.5-Math evaluation prompt. The paper publishes no
wording for guided-alignment. The one in `common/prompt_templates.py` follows its description: learn from the expert
solution without copying it, use it only where stuck, explain in your own words, end with the boxed answer.
"""

import re

from ossft_ray.common.latex import find_boxes
from ossft_ray.common.prompt_templates import GUIDED_PROMPT, SOLVE_PROMPT, SYSTEM_PROMPT, Message

_FIELD = re.compile(r"\{(question|expert_solution)\}")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_BARE_BOX = re.compile(rf"({_BOX.pattern}\s*)[^\s{{$][^\s$]*")
_CLOSING = re.compile(r"(.*####[ \t]*|.*\banswer is:?\s*)([^\s#].*)", re.IGNORECASE)
_NUMBER_LINE = re.compile(r"^(####[ \t]*)[^\sA-Za-z#][^A-Za-z\n]*$", re.MULTILINE)


def fill(template: str, **fields: str) -> str:
    r"""Put `fields` into a prompt template; unlike `str.format` it leaves LaTeX braces in both alone.

    >>> fill(r"{question} Use \boxed{}.", question="1+1?")
    '1+1? Use \\boxed{}.'
    """
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def solve_prompt(question: str, system: str = SYSTEM_PROMPT, template: str = SOLVE_PROMPT) -> list[Message]:
    """The plain prompt. The model is trained on it, whoever wrote the response, and evaluated with it."""
    return _messages(system, fill(template, question=question))


def guided_prompt(
    question: str,
    expert_solution: str,
    system: str = SYSTEM_PROMPT,
    template: str = GUIDED_PROMPT,
    hide_answer: bool = False,
) -> list[Message]:
    """The guided-alignment prompt, with the expert solution in view.

    With `hide_answer` the guide's final answer is masked, so the policy sees the way but not the result.
    """
    guide = mask_answer(expert_solution) if hide_answer else expert_solution
    return _messages(system, fill(template, question=question, expert_solution=guide))


def mask_answer(solution: str, mask: str = "?") -> str:
    r"""Replace the answer of a solution with `mask` wherever it is marked as the answer.

    Masked are the content of each `\boxed{...}` or `\fbox{...}` (nested braces allowed); the one expression after a box
    without braces; a number after `####` (GSM8K); and in the closing lines, all that follows `####` or "the answer is".
    A `#### Step 1` further up is a heading. Unmarked statements of the result stay.

    >>> mask_answer("48 + 24 = 72\n#### 72\nThe answer is: 72")
    '48 + 24 = 72\n#### ?\nThe answer is: ?'
    """
    pieces, position = [], 0
    for start, end in find_boxes(solution, unclosed=True):
        pieces += [solution[position:start], mask]
        position = end
    pieces.append(solution[position:])
    text = "".join(pieces)
    for marked in (_BARE_BOX, _NUMBER_LINE):
        text = marked.sub(lambda match: match[1] + mask, text)
    lines = text.split("\n")
    for number in reversed(range(len(lines))):
        closing = _CLOSING.match(lines[number])
        if closing is None and lines[number].strip():
            break
        if closing is not None and not _BOX.search(closing[2]):
            answer = closing[2].rstrip().removesuffix(".")
            lines[number] = closing[1] + mask + closing[2][len(answer) :]
    return "\n".join(lines)


def _messages(system: str, user: str) -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": user}]
