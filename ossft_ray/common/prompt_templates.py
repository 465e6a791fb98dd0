"""The prompt texts, and the phrases that show that a response was written with a guide in view."""

from dataclasses import dataclass
from typing import Final

Message = dict[str, str]
SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
SOLVE_PROMPT = "{question}"
GUIDED_PROMPT = (
    "{question}\n\n"
    "Here is a reference solution:\n"
    "{expert_solution}\n\n"
    "Learn from it, then solve the problem yourself, step by step and in your own words. "
    "Use the reference only where you are stuck; do not copy or mention it."
)


@dataclass(frozen=True)
class PromptTemplate:
    """The three texts of `[prompts]`."""

    system: str  # empty for none
    solve: str
    guided: str


_ASSISTANT = "You are a helpful assistant."
_LLAMA = r"""Solve the following math problem efficiently and clearly:

- For simple problems (2 steps or fewer):
Provide a concise solution with minimal explanation.

- For complex problems (3 steps or more):
Use this step-by-step format:

## Step 1: [Concise description]
[Brief explanation and calculations]

## Step 2: [Concise description]
[Brief explanation and calculations]

...

Regardless of the approach, always conclude with:

Therefore, the final answer is: $\boxed{answer}$. I hope it is correct.

Where [answer] is just the final number or expression that solves the problem.

Problem: """
# A template whose user message asks for the box also asks for it in the guided prompt.
TEMPLATES = {
    # QwenLM/Qwen2.5-Math, evaluation/utils.py; the paper's
    "qwen25-math-cot": PromptTemplate(SYSTEM_PROMPT, SOLVE_PROMPT, GUIDED_PROMPT),
    # the same file; SimpleRL-Zoo's and many others' since
    "qwen-boxed": PromptTemplate(
        _ASSISTANT, f"{SOLVE_PROMPT}\n{SYSTEM_PROMPT}", GUIDED_PROMPT.replace("\n\n", f"\n{SYSTEM_PROMPT}\n\n", 1)
    ),
    # Meta-Llama-3.1-8B-Instruct-evals, MATH
    "llama-boxed": PromptTemplate("", f"{_LLAMA}{SOLVE_PROMPT}\n", f"{_LLAMA}{GUIDED_PROMPT}"),
}
DEFAULT_TEMPLATE: Final = "qwen25-math-cot"


# "given solution" is not listed by itself: it may be a root that the question states, or a liquid.
REFERENCE_PHRASES: tuple[str, ...] = tuple(
    """
reference solution|reference answer|reference explanation|reference text|provided reference|given reference
according to the reference|based on the reference|following the reference|as in the reference|the reference gives
the reference says|the reference shows|the reference states|the reference suggests|the reference uses
provided solution|provided answer|provided explanation|expert solution|expert's solution|official solution
according to the given solution|based on the given solution|following the given solution|as in the given solution
the given solution gives|the given solution says|the given solution shows|the given solution states
the given solution uses|matches the given answer|the solution provided,|the solution provided.
the solution provided shows|the solution provided uses|solution provided above|solution given above
solution you gave|solution you provided|solution that was given|solution that was provided|the solution above
the above solution|as in the original solution|as in the previous solution|the guide says|the guide shows
""".strip()
    .replace("\n", "|")
    .split("|")
)
"""Default of `[rewrite.guided_alignment] reference_phrases`: the names that the guided prompt gives its guide, and the
variants that models write. Of the 18,711 questions, solutions and answers of six public data sets, none of which was
written from a reference, ten contain one of them: competition solutions that refer to another solution."""
