"""What passes between the layers: a problem, the policy's responses, attempts with their verdicts, and the result."""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["self", "guided"]
Origin = Literal["self", "guided", "expert"]
ORIGINS: tuple[Origin, ...] = ("self", "guided", "expert")


@dataclass(frozen=True)
class Problem:
    """A problem with its checked answer (empty: none to check); benchmarks come without an expert solution.

    `verifier` is the kind of verification that the answer asks for; empty for the run's own.
    """

    problem_id: str
    question: str
    answer: str
    expert_solution: str | None
    verifier: str = ""


@dataclass(frozen=True)
class Response:
    """What the policy wrote: its tokens as sampled (end-of-turn included), and why it stopped.

    `finish_reason` is vLLM's: stop, length or repetition. `in_thinking` says that the prompt had opened a thinking
    block, in which the response then begins. `logprobs` are those of the tokens under the prompt, temperature and top_p
    that they were drawn with, where the policy was asked for them.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    in_thinking: bool = False
    logprobs: list[float] | None = None


@dataclass(frozen=True)
class Attempt:
    """One response with its verdict, and the answer that was read from it, if it came to that.

    `response` is None where its text is not held any more.
    """

    stage: Stage
    index: int
    correct: bool
    reason: str
    finish_reason: str
    num_tokens: int
    response: Response | None = None
    extracted: str | None = None


@dataclass(frozen=True)
class Rewritten:
    """What becomes of a problem. Nothing is kept where the expert's solution stays, or none at all (`origin` None)."""

    origin: Origin | None
    all_kept: list[Attempt]  # in index order
    attempts: list[Attempt]

    @property
    def kept(self) -> Attempt | None:
        """The kept attempt of lowest index."""
        return self.all_kept[0] if self.all_kept else None


class PromptTooLong(Exception):
    """The rendered prompt leaves no room for a response in the policy's context."""
