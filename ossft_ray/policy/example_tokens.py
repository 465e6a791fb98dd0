"""EXAMPLE rows as the token ids that are scored and trained on."""

from typing import Any, NamedTuple

from ossft_ray.config import Experiment
from ossft_ray.policy.chat import Chat


class Encoded(NamedTuple):
    """An example as token ids."""

    prompt: list[int]
    response: list[int]
    is_reencoded: bool  # the response's ids are not those that were sampled

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.response)


def encode(row: dict[str, Any], chat: Chat, experiment: Experiment) -> Encoded:
    """An EXAMPLE row as it is trained on: the prompt through the chat template, the response as it was sampled.

    A response is encoded anew only if another policy wrote it and its ids do not spell it in this tokenizer.
    """
    prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
    if row["policy"] != experiment.policy.model and not _spells(chat, response, row["response"]):
        return Encoded(prompt, chat.encode_response(row["response"]), True)
    return Encoded(prompt, response, False)


def _spells(chat: Chat, token_ids: list[int], response: str) -> bool:
    return token_ids[-1:] == [chat.end_of_turn_id] and chat.decode(token_ids) == response
