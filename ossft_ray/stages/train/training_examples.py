"""The training examples and the holdout, from a rewrite folder's rows and those that are mixed in."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA, check_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Train
from ossft_ray.engines.training.batches import Examples, TokenizedExample
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.example_tokens import EncodedExample, encode_example
from ossft_ray.run_folder.names import PARTS
from ossft_ray.stages.train.mixing import MixedRows, read_mix
from ossft_ray.stages.train.reference_scores import (
    CORRECT,
    LOSSES_FROM_SCORES,
    ReferenceScores,
    read_reference_scores,
    read_scored_attempts,
)
from ossft_ray.stages.train.selection import Candidate, select_responses


@dataclass(frozen=True)
class TrainingExamples:
    """A rewrite folder's rows as token ids, and what was set aside."""

    examples: Examples
    holdout: Examples | None  # measured on, not trained on
    too_long: list[str]  # problem ids, set aside
    num_reencoded: int  # responses of a policy with another tokenizer
    num_not_selected: int  # responses that `train.select` left out
    mixed: list[MixedRows]  # what `train.mix` added to `examples`


def load_training_examples(
    source: Folder, chat: Chat, experiment: Experiment, scores: Folder | None = None
) -> TrainingExamples:
    """What `train.loss` trains on: the rows of `source`, or for `opd` the attempts in `scores`.

    A holdout of attempts has only the correct ones: a policy need not fit its own errors.

    Raises:
        InputError: nothing is left to train on or to measure on, or a response lacks what the loss needs.
    """
    settings = experiment.train
    if settings.loss == "opd":
        assert scores is not None
        read = _Read(read_scored_attempts(scores))
    else:
        read = _read_examples(source, chat, experiment, scores)
    trained, held_out = _split(read.selected, settings.holdout, experiment.run.seed)
    if settings.loss == "opd":
        held_out = [example for example in held_out if example.origin == CORRECT]
    _check_left(source, trained, held_out, len(read.too_long), settings)
    holdout = Examples.build(held_out) if held_out else None
    own_tokens = sum(len(example.response) for example in trained)
    mixed = read_mix(chat, experiment, own_tokens, {example.problem_id for example in held_out})
    trained += [example for rows in mixed for example in rows.examples]
    examples = Examples.build(trained)
    return TrainingExamples(examples, holdout, read.too_long, read.num_reencoded, read.num_not_selected, mixed)


@dataclass(frozen=True)
class _Read:
    """The examples to train or to measure on; the other fields are those of `TrainingExamples`."""

    selected: list[TokenizedExample]
    too_long: list[str] = field(default_factory=list)
    num_reencoded: int = 0
    num_not_selected: int = 0


def _read_examples(source: Folder, chat: Chat, experiment: Experiment, scores: Folder | None) -> _Read:
    """The rows that fit and that `train.select` chooses, encoded.

    If the loss needs them, each comes with the reference's log-probabilities from `scores`, or those from sampling.
    """
    settings = experiment.train
    references = {} if scores is None else read_reference_scores(scores)
    examples: list[TokenizedExample] = []
    candidates: list[Candidate] = []
    too_long, num_reencoded = [], 0
    for file, row in _read_rows(source):
        problem_id, encoded = row["problem_id"], encode_example(row, chat, experiment)
        num_reencoded += encoded.is_reencoded
        if encoded.num_tokens > settings.max_length:
            too_long.append(problem_id)
            continue
        reference = references.get((problem_id, tuple(encoded.response)))
        if scores is not None:
            _check_scores(reference, scores, problem_id, len(encoded.response), settings)
        candidates.append(Candidate(problem_id, len(encoded.response), *(reference or ())[:2]))
        logprobs = reference.logprobs if reference and settings.loss in LOSSES_FROM_SCORES else None
        masses = reference.masses if reference and settings.loss == "prift_mass" else None
        behavior = _behavior_logprobs(row, encoded, file) if settings.loss == "is" else None
        tokens = encoded.prompt, encoded.response
        examples.append(
            TokenizedExample(problem_id, *tokens, row["origin"], logprobs, behavior, reference_masses=masses)
        )
    selected = [examples[index] for index in select_responses(candidates, settings.select)]
    return _Read(selected, too_long, num_reencoded, len(examples) - len(selected))


def _check_left(
    source: Folder,
    trained: list[TokenizedExample],
    held_out: list[TokenizedExample],
    num_too_long: int,
    settings: Train,
) -> None:
    """Raise InputError if nothing is left to train on, or to measure on."""
    if not trained:
        reason = "it holds no examples"
        if held_out:
            reason = f"train.holdout = {settings.holdout} holds all {len(held_out)} examples out; lower it"
        elif num_too_long:
            reason = (
                f"{num_too_long} examples, all longer than train.max_length = {settings.max_length} tokens; raise it"
            )
        raise InputError(f"{source.path}: nothing to train on: {reason}")
    if settings.keep == "best" and not held_out:
        raise InputError(
            f'{source.path}: train.keep = "best" needs problems to measure on, and train.holdout = '
            f"{settings.holdout} holds none out; raise it"
        )


def _split(
    examples: list[TokenizedExample], share: float, seed: int
) -> tuple[list[TokenizedExample], list[TokenizedExample]]:
    """The examples to train on, and the holdout."""
    groups: tuple[list[TokenizedExample], list[TokenizedExample]] = [], []
    for example in examples:
        groups[is_held_out(example.problem_id, share, seed)].append(example)
    return groups


def _check_scores(
    reference: ReferenceScores | None, scores: Folder, problem_id: str, num_tokens: int, settings: Train
) -> None:
    """Raise InputError if a response to train on is not scored as `[train]` needs it."""
    lacking = ""
    if reference is None or len(reference.logprobs) != num_tokens:
        lacking = f"no log-probabilities of the response of problem {problem_id} as it is trained on"
    elif settings.select == "rsr" and reference.ranks is None:
        lacking = 'no ranks of tokens, which train.select = "rsr" needs (an older version scored them)'
    elif settings.loss == "prift_mass" and reference.masses is None:
        lacking = 'no masses of tokens, which train.loss = "prift_mass" needs (an older version scored them)'
    if lacking:
        raise InputError(f"{scores.path}: has {lacking}; run `ossft score --start-over`")


def _read_rows(source: Folder) -> Iterator[tuple[str, dict[str, Any]]]:
    """EXAMPLE rows, each with the path of its file."""
    for name in source.names(PARTS):
        file = f"{source.path}/{name}"
        for row in check_table(source.read_table(name), EXAMPLE_SCHEMA, file).to_pylist():
            yield file, row


def is_held_out(problem_id: str, share: float, seed: int) -> bool:
    """Whether a problem is held out. Its id decides, so its examples stay together, and more data moves no problem."""
    digest = hashlib.sha256(f"{seed} {problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _behavior_logprobs(row: dict[str, Any], encoded: EncodedExample, file: str) -> list[float]:
    """log b of each response token: 0 where an expert wrote it; the final token has that of the end as sampled."""
    if row["origin"] == "expert":
        return [0.0] * len(encoded.response)
    logprobs: list[float] | None = row["behavior_logprobs"]
    problem = f"{file}: the response of problem {row['problem_id']}"
    if logprobs is None or len(logprobs) != len(row["response_token_ids"]):
        raise InputError(
            f'{problem} has no behavior_logprobs, which train.loss = "is" needs; rewrite with [rewrite] '
            "behavior_logprobs = true (again, with --start-over), or choose another train.loss"
        )
    if encoded.is_reencoded:
        raise InputError(
            f'{problem} was written by a policy with another tokenizer, so that train.loss = "is" has no ratio to it; '
            "choose another train.loss, or rewrite with this policy"
        )
    return logprobs
