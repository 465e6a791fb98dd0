"""The policy as a sampler: prompts as token ids in, sampled token ids out, on vLLM's async engine.

Many requests are in flight at once and the engine batches them as it sees fit. Each request has its own seed.
"""

import difflib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.types import PromptTooLong, Response
from ossft_ray.config import Policy
from ossft_ray.policy.chat import Chat, model_path

_PICKLE_FORMATS = ("pt", "npcache")
_REPEATED_TOKENS = (64, 4)  # longest and shortest length of what counts as repeated; each is looked for at each token


class EngineDied(Exception):
    """The engine's process has ended; no request to this policy can be answered any more."""


@dataclass(frozen=True)
class Sampling:
    """How to draw: temperature and top_p as in vLLM, `max_tokens` capped at the context less the prompt.

    A response that says 4 to 64 tokens `max_repeats` times in a row ends there; 0 lets it go on.
    """

    temperature: float
    top_p: float
    max_tokens: int
    max_repeats: int = 0


class VllmPolicy:
    """A loaded engine. Make it, and use it, inside one running asyncio loop."""

    def __init__(self, policy: Policy, chat: Chat, keep_logprobs: bool = False) -> None:
        """Start the engine's process and load the weights; this takes seconds to minutes.

        With `keep_logprobs` responses come with the log-probabilities that their tokens were drawn with.

        Raises:
            EngineDied: the engine's process has ended before it was ready.
        """
        self.chat = chat
        self._keep_logprobs = keep_logprobs
        settings = engine_settings(policy, chat)
        if keep_logprobs:  # after temperature and top_p; vLLM's own choice is before them
            settings["logprobs_mode"] = "processed_logprobs"
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._lora = LoRARequest("policy", 1, policy.lora) if policy.lora else None
        arguments = AsyncEngineArgs(**settings)
        try:
            # As an engine of its own vLLM would take 128 requests at once; for offline work 1,024 on a large GPU.
            self._engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        except RuntimeError as error:
            if "initialization failed" not in str(error):
                raise
            raise EngineDied("it failed to start; its log says why") from error

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        """One response to a rendered prompt.

        `request_id` must be unique among the requests in flight.

        Raises:
            PromptTooLong: the prompt leaves no room for a single token in the context.
            EngineDied: the engine's process has ended.
        """
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        parameters = self._parameters(sampling, seed, room=self.chat.context_length - len(prompt_ids))
        prompt = TokensPrompt(prompt_token_ids=prompt_ids)
        try:
            outputs = self._engine.generate(prompt, parameters, request_id, lora_request=self._lora)
            (output,) = [output async for output in outputs]
        except EngineDeadError as error:
            raise EngineDied(str(error).splitlines()[0]) from error
        completion = output.outputs[0]
        token_ids = list(completion.token_ids)
        finish_reason = str(completion.finish_reason)
        logprobs = self._logprobs(completion, sampling) if self._keep_logprobs else None
        return Response(self.chat.decode(token_ids), token_ids, finish_reason, self.chat.opens_thinking, logprobs)

    def _logprobs(self, completion: Any, sampling: Sampling) -> list[float]:
        """log b of each sampled token. At temperature 0 vLLM gives those of temperature 1, but there was no choice."""
        if sampling.temperature == 0:
            return [0.0] * len(completion.token_ids)
        pairs = zip(completion.token_ids, completion.logprobs, strict=True)
        return [float(at_place[token].logprob) for token, at_place in pairs]

    def _parameters(self, sampling: Sampling, seed: int, room: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

        if room < 1:
            raise PromptTooLong(f"{-room} tokens more than the context holds")
        repetition = (
            RepetitionDetectionParams(*_REPEATED_TOKENS, sampling.max_repeats) if sampling.max_repeats else None
        )
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_tokens, room),
            seed=seed,
            logprobs=0 if self._keep_logprobs else None,  # of the sampled token alone
            stop_token_ids=self.chat.stop_token_ids,
            repetition_detection=repetition,
            detokenize=False,  # the tokens are what counts; the text is decoded once, at the end
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def load_weights(self, folder: str) -> None:
        """Go on with the weights of another model of the same shape; none of its requests may be in flight.

        Takes a fraction of a second where a new engine takes ten.
        """
        await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        await self._engine.reset_prefix_cache()

    def shutdown(self) -> None:
        """End the engine's process and give its memory back."""
        self._engine.shutdown()


def engine_settings(policy: Policy, chat: Chat) -> dict[str, Any]:
    """vLLM's engine arguments: ours for this machine, then the user's own from `[policy.engine]` on top."""
    settings: dict[str, Any] = {
        "model": model_path(policy.model, weights=True),
        "revision": policy.revision,
        "tokenizer_revision": policy.revision,
        "code_revision": policy.revision,
        "trust_remote_code": policy.trust_remote_code,
        "dtype": policy.dtype,
        "max_model_len": chat.context_length,
        "disable_log_stats": True,
    }
    if policy.lora:
        settings |= {"enable_lora": True, "max_lora_rank": _lora_rank(policy.lora)}
    if _has_gpu():
        if policy.batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # The model runs in the engine core's own process: one process less to start, and no messages between the two.
        # vLLM asks for two in order to bind threads, which is off here; this variable is how it is told so.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # A seeded request whose prompt is split by chunked prefill kills the CPU engine.
        settings |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, chat.context_length),
        }
    return settings | policy.engine


def check_engine_settings(settings: dict[str, Any]) -> None:
    """Refuse `[policy.engine]` arguments that vLLM's engine does not have.

    Raises:
        InputError: names the argument and the nearest valid one; or it would load code or pickles unasked.
    """
    if "trust_remote_code" in settings:
        raise InputError("[policy.engine] trust_remote_code: set [policy] trust_remote_code, which training heeds too")
    if settings.get("load_format") in _PICKLE_FORMATS:
        raise InputError(
            f"[policy.engine] load_format: '{settings['load_format']}' loads pickles, which may run any code; "
            "leave it out, and give a model with .safetensors"
        )
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


def _lora_rank(folder: str) -> int:
    """The smallest rank that vLLM makes room for and this adapter fits."""
    rank = json.loads((Path(folder).expanduser() / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), int(rank))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def prompt_logprobs(policy: Policy, chat: Chat, rows: list[list[int]]) -> list[list[float]]:
    """log p of each token but the first of each row, as vLLM computes it; starts an engine and ends it."""
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(**engine_settings(policy, chat))
    parameters = SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = engine.generate([TokensPrompt(prompt_token_ids=row) for row in rows], parameters, use_tqdm=False)
    return [
        [at_place[token].logprob for token, at_place in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
        for row, output in zip(rows, outputs, strict=True)
    ]
