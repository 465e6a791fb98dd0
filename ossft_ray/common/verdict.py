"""What does grading say about a response? One verdict, with its reason and the answer that was read."""

from dataclasses import dataclass
from typing import Final

CORRECT: Final = "correct"
WRONG: Final = "wrong"
UNPARSED: Final = "unparsed"  # an answer stands there, but it is not mathematics that can be read
TOO_COMPLEX: Final = "too_complex"  # an answer stands there, too large to be evaluated or compared
NO_ANSWER: Final = "no_answer"  # no text counts as the answer
NO_GOLD: Final = "no_gold"  # the problem itself has no answer to compare with
TRUNCATED: Final = "truncated"  # cut at its token limit: given by whoever sampled it, never by a grader
TIMEOUT: Final = "timeout"
MEMORY: Final = "memory"
CRASHED: Final = "crashed"  # the grading process died for another reason
VERIFIER_ERROR: Final = "verifier_error"  # the grader itself failed, such as a user's function that raised

# Whether the response is right was not found out.
NO_VERDICT: Final = (TOO_COMPLEX, TIMEOUT, MEMORY, CRASHED, VERIFIER_ERROR)


@dataclass(frozen=True)
class Verdict:
    """Whether a response is right, why (one of this module's reasons), and the answer that was read from it."""

    correct: bool
    reason: str
    extracted: str | None = None
