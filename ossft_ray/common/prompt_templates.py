"""The prompt texts, and the phrases that show that a response was written with a guide in view."""

from dataclasses import dataclass
from typing import Any, Final

Message = dict[str, Any]
"""`role` and `content`, and what the chat template reads about tools if the conversation has any."""
SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
SOLVE_PROMPT = "{question}"
GUIDED_PROMPT = (
    "{question}\n\n"
    "Here is a reference solution:\n"
    "{expert_solution}\n\n"
    "Learn from it, then solve the problem yourself, step by step and in your own words. "
    "Use the reference only where you are stuck; do not copy or mention it."
)


def split_tools(messages: list[Message]) -> tuple[list[Message], list[Any]]:
    """The messages without `tools`, and the tools. One message may hold those of the whole conversation."""
    tools: list[Any] = next((message["tools"] for message in messages if message.get("tools")), [])
    return [{key: value for key, value in message.items() if key != "tools"} for message in messages], tools


@dataclass(frozen=True)
class PromptTemplate:
    """The texts of `[prompts]`."""

    system: str  # empty for none
    solve: str
    guided: str
    answer: str = r"The answer is $\boxed{{answer}}$."


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
_STEPS = r"Let's think step by step and output the final answer within \boxed{}."
# A template whose user message asks for the box also asks for it in the guided prompt.
TEMPLATES = {
    # QwenLM/Qwen2.5-Math, evaluation/utils.py; the paper's
    "qwen25-math-cot": PromptTemplate(SYSTEM_PROMPT, SOLVE_PROMPT, GUIDED_PROMPT),
    # the same file; since used by SimpleRL-Zoo and many others
    "qwen-boxed": PromptTemplate(
        _ASSISTANT, f"{SOLVE_PROMPT}\n{SYSTEM_PROMPT}", GUIDED_PROMPT.replace("\n\n", f"\n{SYSTEM_PROMPT}\n\n", 1)
    ),
    # Meta-Llama-3.1-8B-Instruct-evals, MATH
    "llama-boxed": PromptTemplate(
        "",
        f"{_LLAMA}{SOLVE_PROMPT}\n",
        f"{_LLAMA}{GUIDED_PROMPT}",
        r"Therefore, the final answer is: $\boxed{{answer}}$. I hope it is correct.",
    ),
    # NKU-HLT/Off-Policy-SFT, math_evaluation/math_eval.py: the authors' evaluation of Llama-3.1-8B
    "llama-steps": PromptTemplate("", f"{SOLVE_PROMPT}\n{_STEPS}", GUIDED_PROMPT.replace("\n\n", f"\n{_STEPS}\n\n", 1)),
}
DEFAULT_TEMPLATE: Final = "qwen25-math-cot"


# "given solution" is not listed by itself: it may be a root that the question states, or a liquid.
REFERENCE_PHRASES: tuple[str, ...] = (
    # the guide
    "(reference|expert|expert's|official|provided) (solution|answer|explanation|text|material)",
    "(provided|given|above|original) reference|the reference (only|as|for|to)|use (of |)(the|a) reference",
    "(according to|based on|following|as in|see) (the|this|your) (reference|guide|notes|hint)",
    "(using|from) the reference|(just|is) a reference|the reference (is|was)",
    "the (reference|guide|hint|notes) (gives|says|shows|states|suggests|uses)",
    "(according to|based on|following|as in|matches|copy|copying|from) (the|this) (given|same) (solution|answer)",
    "the given solution (gives|says|shows|states|uses)|the solution provided(,|.)|the solution provided (shows|uses)",
    "solution (provided|given) above|solution (you gave|you provided|that was given|that was provided)",
    "the solution above|the above solution|as in the (original|previous) solution|friend's notes",
    # the guide of prompts that call it a teacher's; two reimplementations of the paper are said to share such a text
    "(teacher's|instructor's|tutor's) (solution|answer|explanation|approach|reasoning|derivation|method)",
    "= ?|=?|equals ?",  # the hidden answer, copied from the guide
    # a tutor, and the reader's answer
    "your (own |final |)(answer|solution|work|result|calculation|calculations) (is|was|are|were|looks)",
    "well done|great job",
    "your (explanation|reasoning|approach|understanding|response|task)|(for|as) your reference",
    "you (are|were) (correct|right|wrong|incorrect)|(you|you've|you have) (provided|given|asked|mentioned|shared)",
    "(can|could|would) you (show|provide)|please (add|show|provide|put|repeat|explain|reason|write|do|solve)",
    "let me know|feel free|i hope this|keep practicing",
    "(is|was) (indeed |not |)(a |an |)(correct|incorrect|step-by-step) (answer|solution)",
    "(your|the|this|that) answer (is|was) (in|)correct",
    # the task itself
    "in (your|my|their) own words|(do not|don't|without|avoid) (copy|copying)|copy or mention",
    "this is a (classic|simple|basic|math|mathematical) (math |)problem|as instructed",
    "the answer to this (classic|problem)",
)
"""Default of `[rewrite.guided_alignment] reference_phrases`: families of phrases with which a response talks about its
guide, its reader or its task, instead of solving the problem."""
