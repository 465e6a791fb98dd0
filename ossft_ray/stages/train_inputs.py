"""Which tokens are trained on: a rewrite folder's rows through the policy's chat template, some of them kept apart."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.engines.batches import Examples
from ossft_ray.engines.chat import Chat
from ossft_ray.errors import InputError
from ossft_ray.schema import EXAMPLE, check_table
from ossft_ray.stages.references import References
from ossft_ray.storage import Folder


@dataclass(frozen=True)
class Tokenised:
    """A rewrite folder's rows as token ids, and what became of those that are not among them."""

    examples: Examples
    holdout: Examples | None  # kept apart: measured on, not trained on
    too_long: list[str]  # problem ids, set aside
    num_reencoded: int  # responses of another policy, whose tokens mean nothing here


def tokenise(source: Folder, chat: Chat, experiment: Experiment, references: References | None = None) -> Tokenised:
    """Prompts through the chat template; responses as the token ids that were sampled.

    A response is encoded anew only if another policy wrote it and its ids do not spell it in this tokenizer.

    Raises:
        InputError: nothing is left to train on or to keep apart, or a response has no reference where the loss needs
            one.
    """
    settings = experiment.train
    parts = {False: _Rows(), True: _Rows()}  # by whether they are kept apart
    too_long, num_reencoded = [], 0
    for name in source.names("part-*.parquet"):
        for row in check_table(source.read_table(name), EXAMPLE, f"{source.path}/{name}").to_pylist():
            prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
            if row["policy"] != experiment.policy.model and not _spells(chat, response, row["response"]):
                response = chat.encode_response(row["response"])
                num_reencoded += 1
            if len(prompt) + len(response) > settings.max_length:
                too_long.append(row["problem_id"])
                continue
            rows = parts[is_held_out(row["problem_id"], settings.holdout, experiment.run.seed)]
            rows.add(row, prompt, response, references)
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

    def add(self, row: dict[str, Any], prompt: list[int], response: list[int], references: References | None) -> None:
        if references is not None:
            self.reference_logprobs.append(references.of(row["problem_id"], response))
        self.problem_ids.append(row["problem_id"])
        self.prompts.append(prompt)
        self.responses.append(response)
        self.origins.append(row["origin"])

    def examples(self) -> Examples:
        return Examples.build(
            self.problem_ids, self.prompts, self.responses, self.origins, self.reference_logprobs or None
        )


def _spells(chat: Chat, token_ids: list[int], response: str) -> bool:
    return token_ids[-1:] == [chat.end_of_turn_id] and chat.decode(token_ids) == response
