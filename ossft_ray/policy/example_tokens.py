"""EXAMPLE rows as the token ids that are scored and trained on."""

from typing import Any, NamedTuple

from ossft_ray.config import Experiment
from ossft_ray.policy.chat import Chat


class EncodedExample(NamedTuple):
    """An example as token ids."""

    prompt: list[int]
    response: list[int]
    is_reencoded: bool  # the response's ids are not those that were sampled

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.response)


def encode_example(row: dict[str, Any], chat: Chat, experiment: Experiment) -> EncodedExample:
    """An EXAMPLE row as it is trained on: the prompt through the chat template, the response as it was sampled.

    A response is encoded again only if another policy wrote it and its ids do not decode to its text with this
    tokenizer.
    """
    prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
    if row["policy"] != experiment.policy.model:
        is_closed = response[-1:] == [chat.end_of_turn_id]
        if not is_closed or chat.decode(response) != row["response"]:
            return EncodedExample(prompt, chat.encode_response(row["response"]), True)
    return EncodedExample(prompt, response, False)
