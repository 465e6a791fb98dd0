"""Prompts are rendered once for all their samples, even if several ask at the same time."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from ossft_ray.policy.rendered_prompts import RenderedPrompts


class CountingChat:
    def __init__(self) -> None:
        self.rendered: Counter[str] = Counter()

    def render(self, prompt: list[dict[str, str]]) -> list[int]:
        if not prompt:
            raise ValueError("no messages")
        self.rendered[prompt[0]["content"]] += 1
        return list(prompt[0]["content"].encode())


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_prompt_is_rendered_once() -> None:
    chat: Any = CountingChat()

    async def run() -> None:
        prompts = RenderedPrompts(chat, max_prompts=2)
        cancelled = asyncio.ensure_future(prompts.render(prompt("a")))
        await asyncio.sleep(0)
        cancelled.cancel()
        at_once = await asyncio.gather(*(prompts.render(prompt(text)) for text in "aaabbb"))
        assert at_once == [[97]] * 3 + [[98]] * 3
        assert await prompts.render(prompt("a")) == [97]
        assert chat.rendered == {"a": 1, "b": 1}
        await prompts.render(prompt("c"))
        await prompts.render(prompt("a"))
        assert chat.rendered == {"a": 2, "b": 1, "c": 1}, "the oldest was forgotten"
        with pytest.raises(ValueError, match="no messages"):
            await prompts.render([])

    asyncio.run(run())
