"""Which tokens are trained on: a rewrite folder's rows through the policy's chat template, some of them kept apart."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.engines.training.batches import Examples
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.example_tokens import Encoded, encode
from ossft_ray.run_folder.names import PARTS
from ossft_ray.stages.train.reference_logprobs import References


@dataclass(frozen=True)
class Tokenised:
    """A rewrite folder's rows as token ids, and what became of those that are not among them."""

    examples: Examples
    holdout: Examples | None  # kept apart: measured on, not trained on
    too_long: list[str]  # problem ids, set aside
    num_reencoded: int  # responses of another policy, whose tokens mean nothing here


def tokenise(source: Folder, chat: Chat, experiment: Experiment, references: References | None = None) -> Tokenised:
    """All rows that fit, encoded; with log-probabilities of the reference or of the drawing where the loss needs them.

    Raises:
        InputError: nothing is left to train on or to keep apart, or a response lacks what the loss needs.
    """
    settings = experiment.train
    parts = {False: _Rows(), True: _Rows()}  # by whether they are kept apart
    too_long, num_reencoded = [], 0
    for name in source.names(PARTS):
        for row in check_table(source.read_table(name), EXAMPLE_SCHEMA, f"{source.path}/{name}").to_pylist():
            encoded = encode(row, chat, experiment)
            num_reencoded += encoded.is_reencoded
            if encoded.num_tokens > settings.max_length:
                too_long.append(row["problem_id"])
                continue
            rows = parts[is_held_out(row["problem_id"], settings.holdout, experiment.run.seed)]
            rows.add(row, encoded)
            if references is not None:
                rows.reference_logprobs.append(references.of(row["problem_id"], encoded.response))
            if settings.loss == "is":
                rows.behavior_logprobs.append(_behavior_logprobs(row, encoded, f"{source.path}/{name}"))
    if not parts[False].problem_ids:
        raise InputError(
            f"{source.path}: nothing to train on: {len(too_long)} examples, all longer than "
            f"train.max_length = {settings.max_length} tokens; raise it"
            if too_long
            else f"{source.path}: nothing to train on: it holds no examples"
        )
    if settings.keep == "best" and not parts[True].problem_ids:
        raise InputError(
            f'{source.path}: train.keep = "best" needs problems to measure on, and train.holdout = '
            f"{settings.holdout} keeps none apart; raise it"
        )
    holdout = parts[True].examples() if parts[True].problem_ids else None
    return Tokenised(parts[False].examples(), holdout, too_long, num_reencoded)


def is_held_out(problem_id: str, share: float, seed: int) -> bool:
    """Whether a problem is kept apart: by its own id, so that all its examples are, and more data moves none."""
    digest = hashlib.sha256(f"{seed} {problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass
class _Rows:
    """Rows on their way to become `Examples`."""

    problem_ids: list[str] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    reference_logprobs: list[list[float]] = field(default_factory=list)
    behavior_logprobs: list[list[float]] = field(default_factory=list)

    def add(self, row: dict[str, Any], encoded: Encoded) -> None:
        self.problem_ids.append(row["problem_id"])
        self.prompts.append(encoded.prompt)
        self.responses.append(encoded.response)
        self.origins.append(row["origin"])

    def examples(self) -> Examples:
        return Examples.build(
            self.problem_ids,
            self.prompts,
            self.responses,
            self.origins,
            self.reference_logprobs or None,
            self.behavior_logprobs or None,
        )


def _behavior_logprobs(row: dict[str, Any], encoded: Encoded, file: str) -> list[float]:
    """log b of each response token: 0 where an expert wrote it; of the turn's end, that of the end that was drawn."""
    if row["origin"] == "expert":
        return [0.0] * len(encoded.response)
    logprobs: list[float] | None = row["behavior_logprobs"]
    problem = f"{file}: the response of problem {row['problem_id']}"
    if logprobs is None or len(logprobs) != len(row["response_token_ids"]):
        raise InputError(
            f'{problem} has no behavior_logprobs, which train.loss = "is" needs; rewrite with [rewrite] '
            "behavior_logprobs = true (anew, with --start-over), or choose another train.loss"
        )
    if encoded.is_reencoded:
        raise InputError(
            f'{problem} was written by a policy with another tokenizer, so that train.loss = "is" has no ratio to it; '
            "choose another train.loss, or rewrite with this policy"
        )
    return logprobs
