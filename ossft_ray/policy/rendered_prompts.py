"""Rendered prompts: each is turned into tokens once, in a thread, for all samples that are drawn from it."""

import asyncio
import json

from ossft_ray.common.prompt_templates import Message
from ossft_ray.policy.chat import Chat


class RenderedPrompts:
    """The tokens of the latest prompts. Use it inside one running asyncio loop."""

    def __init__(self, chat: Chat, max_prompts: int) -> None:
        self._chat, self._max_prompts = chat, max_prompts
        self._tasks: dict[str, asyncio.Task[list[int]]] = {}  # in order of arrival

    async def render(self, prompt: list[Message]) -> list[int]:
        """The token ids of a prompt."""
        key = json.dumps(prompt)
        if (task := self._tasks.get(key)) is None:
            task = self._tasks[key] = asyncio.create_task(asyncio.to_thread(self._chat.render, prompt))
            if len(self._tasks) > self._max_prompts:
                self._tasks.pop(next(iter(self._tasks)))
        return await asyncio.shield(task)  # others may wait for it when this sample is cancelled
