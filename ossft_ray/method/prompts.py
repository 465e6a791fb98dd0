"""The policy's prompts: the plain solve prompt and the guided "digest and retell" prompt.

Source: "Mind the Gap" (arXiv 2509.15157), Section 3, and the Qwen2.5-Math evaluation prompt. The paper publishes no
wording for guided-alignment. The one in `common/prompt_templates.py` follows its description: learn from the expert
solution without copying it, use it only where stuck, explain in your own words, end with the boxed answer.
"""

import json
import re
from fractions import Fraction

from ossft_ray.common.latex import find_boxes
from ossft_ray.common.prompt_templates import GUIDED_PROMPT, SOLVE_PROMPT, SYSTEM_PROMPT, Message
from ossft_ray.config import Prompts
from ossft_ray.method.steps import NUMBER, ONES, TEENS, TENS, number_value

_FIELD = re.compile(r"\{(question|expert_solution|answer)\}")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])")
_BARE_BOX = re.compile(rf"({_BOX.pattern}\s*)[^\s{{$][^\s$]*")
_CLOSING = re.compile(r"(.*####[ \t]*|.*\banswer is:?\s*)([^\s#].*)", re.IGNORECASE)
_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}|(\d+)\s*/\s*(\d+)")
_SHORTEST_TEXT = 3  # characters; shorter answers in words are hidden only where they are marked
_NUMBER_LINE = re.compile(r"^(####[ \t]*)[^\sA-Za-z#][^A-Za-z\n]*$", re.MULTILINE)


def fill(template: str, **fields: str) -> str:
    r"""Put `fields` into a prompt template; unlike `str.format` it leaves LaTeX braces in both alone.

    >>> fill(r"{question} Use \boxed{}.", question="1+1?")
    '1+1? Use \\boxed{}.'
    """
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def solve_prompt(
    question: str, system: str = SYSTEM_PROMPT, template: str = SOLVE_PROMPT, conversation: str = ""
) -> list[Message]:
    """The plain prompt. The model is trained on it, whoever wrote the response, and evaluated with it.

    With a problem's `conversation`, it is that conversation, its last user message replaced by the filled template.
    """
    return _messages(system, fill(template, question=question), conversation)


def guided_prompt(
    question: str,
    expert_solution: str,
    system: str = SYSTEM_PROMPT,
    template: str = GUIDED_PROMPT,
    hidden_answer: str | None = None,
    conversation: str = "",
) -> list[Message]:
    """The guided-alignment prompt, with the expert solution in view.

    With `hidden_answer`, the problem's answer, the guide shows the way but not the result; see `hide_answer`.
    """
    guide = expert_solution if hidden_answer is None else hide_answer(expert_solution, hidden_answer)
    return _messages(system, fill(template, question=question, expert_solution=guide), conversation)


def complete_solution(solution: str, answer: str, prompts: Prompts) -> str:
    r"""End an expert's solution with its answer in the box that the prompt asks for, as the policy's own do.

    A solution stays as is if it has a box, the problem has no answer, or the prompts ask for no box.

    >>> complete_solution("48 + 24 = 72", "72", Prompts())
    '48 + 24 = 72\nThe answer is $\\boxed{72}$.'
    """
    asks_for_box = _BOX.search(prompts.system + prompts.solve)
    if not (answer and prompts.answer and asks_for_box) or find_boxes(solution):
        return solution
    return f"{solution.rstrip()}\n{fill(prompts.answer, answer=answer)}"


def hide_answer(solution: str, answer: str, mask: str = "?") -> str:
    r"""Replace the answer with `mask` wherever it is marked as the answer, and wherever its value occurs.

    A number is hidden however it is written (1,200, 1200.00 and, up to a hundred, in words), any other answer
    where it occurs as a whole. A choice's letter, or another text of one or two characters, is hidden only where it is
    marked.

    >>> hide_answer("He sold 48+24 = <<48+24=72>>72 clips, seventy-two in all. #### 72", "72")
    'He sold 48+24 = <<48+24=?>>? clips, ? in all. #### ?'
    """
    text = mask_answer(solution, mask)
    value = number_value(answer)
    if fraction := _FRACTION.fullmatch(answer.strip()):
        top, bottom = (part for part in fraction.groups() if part)
        value = Fraction(int(top), int(bottom) or 1)
        written = rf"\\[dt]?frac\{{{top}\}}\{{{bottom}\}}|{top}\s*/\s*{bottom}"
        text = re.sub(rf"(?<![\w.])(?:{written})(?![\w]|\.\d)", mask, text)
    if value is not None:
        text = NUMBER.sub(lambda match: mask if number_value(match[0]) == value else match[0], text)
        if value.denominator == 1 and (words := _WORDS.get(int(value))):
            text = re.sub(rf"\b{words}\b", mask, text, flags=re.IGNORECASE)
        return text
    if len(answer.strip()) < _SHORTEST_TEXT:
        return text
    spaced = r"\s*".join(map(re.escape, answer.split()))
    return re.sub(rf"(?<!\w){spaced}(?!\w)", mask, text, flags=re.IGNORECASE)


def mask_answer(solution: str, mask: str = "?") -> str:
    r"""Replace the answer of a solution with `mask` wherever it is marked as the answer.

    This masks the content of each `\boxed{...}` or `\fbox{...}` (nested braces allowed); the one expression after a box
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


def _number_words() -> dict[int, str]:
    """Patterns of the numbers from 2 to 100 in words."""
    words = dict(enumerate([*ONES, *TEENS], start=1))
    for tens, name in enumerate(TENS, start=2):
        words |= {10 * tens + number: f"{name}[- ]{one}" for number, one in enumerate(ONES, start=1)}
        words[10 * tens] = rf"{name}(?![- ](?:{'|'.join(ONES)})\b)"
    words[100] = "(?:one|a) hundred(?! and)"
    del words[1]  # "one" is mostly not a number
    return words


_WORDS = _number_words()


def _messages(system: str, user: str, conversation: str) -> list[Message]:
    """The messages of a prompt; the system message of a conversation comes before ours, unless it contains ours."""
    messages: list[Message] = json.loads(conversation) if conversation else [{"role": "user"}]
    question = max(place for place, message in enumerate(messages) if message["role"] == "user")
    messages[question] = messages[question] | {"content": user}
    if not system:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    own = messages[0]["content"]
    return [messages[0] | {"content": own if system in own else f"{own}\n\n{system}".strip()}, *messages[1:]]
