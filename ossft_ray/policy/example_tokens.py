"""EXAMPLE rows as the token ids that are scored and trained on."""

import json
from typing import Any, NamedTuple

from ossft_ray.common.prompt_templates import Message
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


def render_prompt(row: dict[str, Any], chat: Chat) -> list[int]:
    """The token ids of a row's prompt: its messages, with what their conversation says about tools."""
    prompt: list[Message] = row["prompt"]
    if row.get("conversation"):
        about = json.loads(row["conversation"])
        num_added = len(prompt) - len(about)  # 1 with a system message of `[prompts]`
        prompt = [*prompt[:num_added], *(old | new for old, new in zip(about, prompt[num_added:], strict=True))]
    return chat.render(prompt)


def encode_example(row: dict[str, Any], chat: Chat, experiment: Experiment) -> EncodedExample:
    """An EXAMPLE row as it is trained on: the prompt through the chat template, the response as it was sampled.

    A response is encoded again only if another policy wrote it, and its ids do not decode to its text with this
    tokenizer or lack its end-of-turn token.
    """
    prompt, response = render_prompt(row, chat), chat.close_turn(row["response_token_ids"])
    if row["policy"] != experiment.policy.model:
        is_closed = response[-1:] == [chat.end_of_turn_id]
        if not is_closed or chat.decode(response) != row["response"]:
            return EncodedExample(prompt, chat.encode_response(row["response"]), True)
    return EncodedExample(prompt, response, False)
