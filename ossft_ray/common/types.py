"""The values that pass between the layers: problems, responses, attempts and the result of rewriting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Stage = Literal["self", "guided", "external"]  # the paper's two alignment stages, and guidance of another model
Origin = Literal["self", "guided", "external", "expert"]
ORIGINS: tuple[Origin, ...] = ("self", "guided", "external", "expert")
PAPERS_STAGES: tuple[Stage, ...] = ("self", "guided")


def count_origins(counts: Mapping[str, int], stages: Sequence[str] = PAPERS_STAGES) -> dict[str, int]:
    """The counts of these alignment stages and of the expert, 0 by default, and of any other origin in `counts`."""
    return {name: counts.get(name, 0) for name in ORIGINS if name in (*stages, "expert") or name in counts}


@dataclass(frozen=True)
class Problem:
    """A problem with its gold answer (empty: it has none). Benchmarks come without an expert solution.

    `verifier` is the kind of verification that this answer needs; if it is empty, `[verify] kind` applies.
    `conversation` is empty for a plain question, else the JSON text of all messages up to the response. The
    user's last message is the question, and the first message may hold the `tools`.
    """

    problem_id: str
    question: str
    answer: str
    expert_solution: str | None
    verifier: str = ""
    conversation: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Problem":
        """The problem in a row; columns that older rows lack become empty."""
        later = {name: row.get(name) or "" for name in ("verifier", "conversation")}
        return cls(row["problem_id"], row["question"], row["answer"], row["expert_solution"], **later)


@dataclass(frozen=True)
class Response:
    """A response of the policy, with its tokens as sampled, end-of-turn token included.

    `finish_reason` is stop, length or repetition. `in_thinking` means that the prompt ended with an open
    thinking block, so the response starts inside it. `logprobs` are those of the distribution that each token was
    drawn from (stage's prompt, temperature, top_p); they are recorded only on request.

    If another model wrote the text, `token_ids` are how the policy tokenizes it, and `gap` is their mean -log p under
    the policy after the plain prompt, in nats; None if `max_gap` is not set.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    in_thinking: bool = False
    logprobs: list[float] | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One response and its verdict. `response` is None once its text is no longer stored.

    `extracted` is the answer that the verifier read from the response, if it read one.
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
class RewriteResult:
    """The result of rewriting a problem, with all attempts at it.

    `origin` is None if the problem is dropped. `kept` holds the kept responses in index order; it is empty if the
    expert's solution stays or the problem is dropped.
    """

    origin: Origin | None
    kept: list[Attempt]
    attempts: list[Attempt]


class PromptTooLong(Exception):
    """The rendered prompt fills the policy's context and leaves no token for a response."""
