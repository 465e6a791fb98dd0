"""The policy as a sampler: prompts as token ids in, sampled token ids out, on vLLM's async engine.

Many requests are in flight at once and the engine batches them as it sees fit. Each request has its own seed.
"""

import asyncio
import difflib
import os
from dataclasses import dataclass
from typing import Any

from ossft_ray.config import Policy
from ossft_ray.engines.chat import Chat, model_path
from ossft_ray.errors import InputError
from ossft_ray.method.rewriting import PromptTooLong, Response


@dataclass(frozen=True)
class Sampling:
    """How to draw: temperature and top_p as in vLLM, `max_tokens` capped at the context less the prompt."""

    temperature: float
    top_p: float
    max_tokens: int


class VllmPolicy:
    """A loaded engine. Make it, and use it, inside one running asyncio loop."""

    def __init__(self, policy: Policy, chat: Chat) -> None:
        """Start the engine's process and load the weights; this takes seconds to minutes."""
        self.chat = chat
        settings = engine_settings(policy, chat)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))

    async def sample(self, prompt: list[dict[str, str]], sampling: Sampling, seed: int, request_id: str) -> Response:
        """One response to a chat prompt.

        `request_id` must be unique among the requests in flight.

        Raises:
            PromptTooLong: the rendered prompt leaves no room for a single token in the context.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        prompt_ids = await asyncio.to_thread(self.chat.render, prompt)
        room = self.chat.context_length - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(f"{len(prompt_ids)} tokens in a context of {self.chat.context_length}")
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=seed,
            stop_token_ids=self.chat.stop_token_ids,
            detokenize=False,  # the tokens are what counts; the text is decoded once, below
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = self._engine.generate(TokensPrompt(prompt_token_ids=prompt_ids), parameters, request_id)
        (output,) = [output async for output in outputs]
        completion = output.outputs[0]
        token_ids = list(completion.token_ids)
        finish_reason = str(completion.finish_reason)
        return Response(self.chat.decode(token_ids), token_ids, finish_reason, len(prompt_ids))

    def shutdown(self) -> None:
        """End the engine's process and give its memory back."""
        self._engine.shutdown()


def engine_settings(policy: Policy, chat: Chat) -> dict[str, Any]:
    """vLLM's engine arguments: ours for this machine, then the user's own from `[policy.engine]` on top."""
    settings: dict[str, Any] = {
        "model": model_path(policy.model),
        "revision": policy.revision,
        "dtype": policy.dtype,
        "max_model_len": chat.context_length,
        "disable_log_stats": True,
    }
    if not _has_gpu():
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # A seeded request whose prompt is split by chunked prefill kills the CPU engine.
        settings |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, chat.context_length),
        }
    return settings | policy.engine


def check_engine_settings(settings: dict[str, Any]) -> None:
    """Refuse `[policy.engine]` arguments that vLLM's engine does not have.

    Raises:
        InputError: names the argument and the nearest valid one.
    """
    if not settings:
        return  # vLLM takes seconds to import
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    valid = [field.name for field in fields(AsyncEngineArgs)]
    for name in settings:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"[policy.engine] vLLM has no engine argument '{name}'{hint}")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
