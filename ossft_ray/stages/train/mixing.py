"""Rows of other sources among the training examples: other runs, or plain chats against forgetting."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jinja2 import TemplateError

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment, Mix, Train
from ossft_ray.data.chats import UnusableRow, read_turns
from ossft_ray.data.records import file_digest, find_files, is_known_kind, read_records
from ossft_ray.engines.training.batches import TokenizedExample
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.example_tokens import EncodedExample, encode_example
from ossft_ray.run_folder.names import MANIFEST, PARTS
from ossft_ray.run_folder.reader import read_columns
from ossft_ray.stages.train.reference_scores import LOSSES_FROM_SCORES


@dataclass(frozen=True)
class MixedRows:
    """The rows that one entry of `[[train.mix]]` adds, and those of its source that cannot be used."""

    name: str  # mix_1, mix_2, ... as in the metrics
    source: str
    wanted_tokens: int  # of responses
    examples: list[TokenizedExample]
    num_unusable: int

    @property
    def response_tokens(self) -> int:
        return sum(len(example.response) for example in self.examples)

    def as_json(self) -> dict[str, Any]:
        """The entry in the manifest."""
        counts = {"examples": len(self.examples), "unusable": self.num_unusable}
        tokens = {"response_tokens": self.response_tokens, "wanted_tokens": self.wanted_tokens}
        return {"name": self.name, "source": self.source, **counts, **tokens}


def mix_inputs(mix: list[Mix]) -> list[dict[str, Any]]:
    """What the mixed rows depend on: each source's rows and its weight.

    Raises:
        InputError: a source does not exist.
    """
    return [{"weight": each.weight, "rows": _digest(each.examples)} for each in mix]


def read_mix(chat: Chat, experiment: Experiment, own_tokens: int, held_out: set[str]) -> list[MixedRows]:
    """The rows of every source of `[[train.mix]]`, each until its weight times `own_tokens` is reached.

    The choice depends only on the rows' places in the source and the run's seed. A source with too few tokens gives all
    its rows.

    Args:
        own_tokens: response tokens of the run's own training examples.
        held_out: ids of the problems in the holdout, whose rows in other runs are not trained on either.

    Raises:
        InputError: the loss needs scores, which these rows do not have, or no row of a source can be used.
    """
    check_mix(experiment.train)
    return [
        _read_source(f"mix_{number}", mix.examples, round(mix.weight * own_tokens), chat, experiment, held_out)
        for number, mix in enumerate(experiment.train.mix, 1)
    ]


def check_mix(settings: Train) -> None:
    """Refuse a loss that needs scores, which mixed rows lack.

    Raises:
        InputError: the loss needs scores.
    """
    if settings.mix and settings.loss in LOSSES_FROM_SCORES:
        raise InputError(
            f'train.mix: mixed rows have no scores, which train.loss = "{settings.loss}" needs; choose another loss'
        )


def _read_source(
    name: str, source: str, wanted_tokens: int, chat: Chat, experiment: Experiment, held_out: set[str]
) -> MixedRows:
    rows = list(_example_rows(source, held_out) if _is_run(source) else _chat_rows(source))
    encode = partial(encode_example, chat=chat, experiment=experiment) if _is_run(source) else partial(_encode, chat)
    chosen: list[TokenizedExample] = []
    num_tokens = num_unusable = 0
    for key, row in sorted(rows, key=lambda pair: hashlib.sha256(f"{experiment.run.seed} {pair[0]}".encode()).digest()):
        if num_tokens >= wanted_tokens:
            break
        encoded = encode(row)
        if encoded is None or encoded.num_tokens > experiment.train.max_length:
            num_unusable += 1
            continue
        behavior = [0.0] * len(encoded.response) if experiment.train.loss == "is" else None
        tokens = encoded.prompt, encoded.response
        chosen.append(TokenizedExample(f"{name}/{key}", *tokens, name, behavior_logprobs=behavior))
        num_tokens += len(encoded.response)
    if not chosen and wanted_tokens:
        raise InputError(
            f"train.mix: {source}: none of its {len(rows)} rows can be used; each needs `messages` that end with the "
            f"assistant's, within train.max_length = {experiment.train.max_length} tokens"
        )
    return MixedRows(name, source, wanted_tokens, chosen, num_unusable)


def _is_run(source: str) -> bool:
    """Whether a source is a rewrite folder rather than a file of chats.

    Raises:
        InputError: it is a folder without a complete rewrite.
    """
    if is_known_kind(source):
        return False
    if not Folder.at(source).exists(MANIFEST):
        raise InputError(
            f"train.mix: {source}: no complete examples (no {MANIFEST}); give a finished run's rewrite folder, or a "
            "JSONL or Parquet file of chats"
        )
    return True


def _example_rows(source: str, held_out: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """EXAMPLE rows, each with its own key."""
    folder = Folder.at(source)
    for part in folder.names(PARTS):
        for index, row in enumerate(read_columns(folder, part, EXAMPLE_SCHEMA).to_pylist()):
            if row["problem_id"] not in held_out:
                yield f"{row['problem_id']}/{row['kept_index']}/{part}/{index}", row


def _chat_rows(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in find_files(source):
        for record in read_records(file):
            yield f"{file.rpartition('/')[2]}/{record.row}", record.values


def _encode(chat: Chat, row: dict[str, Any]) -> EncodedExample | None:
    """A chat up to the assistant's last message, which is the response; None if it cannot be used."""
    try:
        turns = read_turns(row.get("messages")) or []
        *before, last = [{"role": turn.role, "content": turn.text or ""} for turn in turns]
        if not before or last["role"] != "assistant" or not last["content"].strip():
            return None
        return EncodedExample(chat.render(before), chat.encode_response(last["content"]), False)
    except (UnusableRow, TemplateError, ValueError):
        return None


def _digest(source: str) -> str:
    if _is_run(source):
        return str(Folder.at(source).read_json(MANIFEST)["fingerprint"])
    return " ".join(file_digest(file) for file in find_files(source))
