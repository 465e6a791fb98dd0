"""The verdict on a response: whether it counts as correct, the reason, and the answer that was read from it."""

from dataclasses import dataclass
from typing import Final

# Reasons that a verifier gives
CORRECT: Final = "correct"
WRONG: Final = "wrong"
UNPARSED: Final = "unparsed"  # there is an answer, but it cannot be read as mathematics
TOO_COMPLEX: Final = "too_complex"  # there is an answer, but it is too large to evaluate or compare
NO_ANSWER: Final = "no_answer"  # no text counts as the answer
NO_GOLD: Final = "no_gold"  # the problem has no gold answer to compare with
TIMEOUT: Final = "timeout"
MEMORY: Final = "memory"
CRASHED: Final = "crashed"  # the grading process died for another reason
UNJUDGED: Final = "unjudged"  # the judge was not asked, could not read it, or gave no verdict
VERIFIER_ERROR: Final = "verifier_error"  # the verifier failed, for example because a user's function raised

# Reasons of rewriting: the response is unfinished, not an independent solution, or could not be sampled
TRUNCATED: Final = "truncated"
REPETITION: Final = "repetition"
MENTIONS_REFERENCE: Final = "mentions_reference"
COPIES_REFERENCE: Final = "copies_reference"
CONTAINS_REFERENCE: Final = "contains_reference"
WRONG_STEP: Final = "wrong_step"  # an equation in it is false
NO_DERIVATION: Final = "no_derivation"  # nothing in it leads to its answer
CONTRADICTION: Final = "contradiction"  # it also announces another answer
PROMPT_TOO_LONG: Final = "prompt_too_long"
NO_RESPONSE: Final = "no_response"  # a server's answer holds no text
TOO_FAR: Final = "too_far"  # another model's response is too unlikely under the policy

NO_VERDICT: Final = (TOO_COMPLEX, TIMEOUT, MEMORY, CRASHED, UNJUDGED, VERIFIER_ERROR)
"""It is unknown whether the response is right."""
NEVER_GRADED: Final = (TRUNCATED, REPETITION, PROMPT_TOO_LONG, NO_RESPONSE)  # they hold whatever the gold answer is
UNSOUND: Final = (
    MENTIONS_REFERENCE, COPIES_REFERENCE, CONTAINS_REFERENCE, WRONG_STEP, NO_DERIVATION, CONTRADICTION, TOO_FAR,
)  # fmt: skip
"""The answer is right, but the response is not a sound solution."""


@dataclass(frozen=True)
class Verdict:
    """The grade of a response, its reason (usually one of this module's), and the answer that the response gives."""

    correct: bool
    reason: str
    extracted: str | None = None
