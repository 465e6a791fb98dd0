"""What the policy is asked: the plain solve prompt, and the guided "digest and retell" prompt.

Source: "Mind the Gap" (arXiv 2509.15157), Section 3, and the Qwen2.5-Math evaluation prompt. The paper
publishes no wording for guided-alignment; the one here follows its description: learn from the expert
solution without copying it, use it only where stuck, explain in your own words, end with the boxed answer.

`TEMPLATES` holds the field's usual prompts by the names they have there.
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
    r"""Put `fields` into a prompt template; braces of LaTeX in either are left alone (unlike `str.format`).

    >>> fill(r"{question} Use \boxed{}.", question="1+1?")
    '1+1? Use \\boxed{}.'
    """
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def solve_prompt(question: str, system: str = SYSTEM_PROMPT, template: str = SOLVE_PROMPT) -> list[Message]:
    """The plain prompt: what the model is trained on and evaluated with, whoever wrote the response."""
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": fill(template, question=question)}]


def guided_prompt(
    question: str,
    expert_solution: str,
    system: str = SYSTEM_PROMPT,
    template: str = GUIDED_PROMPT,
    hide_answer: bool = False,
) -> list[Message]:
    r"""The guided-alignment prompt, with the expert solution in view.

    `hide_answer` blanks the content of every `\boxed{}` and a GSM8K-style `#### ...` tail in the guide, so
    that the policy sees the way but not the result.
    """
    guide = mask_answer(expert_solution) if hide_answer else expert_solution
    messages = [{"role": "system", "content": system}] if system else []
    content = fill(template, question=question, expert_solution=guide)
    return [*messages, {"role": "user", "content": content}]


def mask_answer(solution: str, mask: str = "?") -> str:
    r"""Replace the answer of a solution by `mask`, wherever it is marked as the answer.

    That is the content of each `\boxed{...}` or `\fbox{...}` (nested braces allowed), or the one expression after a box
    without braces; a number after `####` (GSM8K); and in the closing lines, whatever follows `####` or "the answer is".
    A `#### Step 1` further up is a heading. What the solution says of its result elsewhere stays.

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
