"""Responses of a model other than the policy, `[rewrite.external_alignment]`: a second engine, or a server.

Only text crosses over, so the model may have another vocabulary and chat template. A kept response is trained on like
an expert's solution: the policy's tokens for its text, and the policy's end-of-turn token.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import ray

from ossft_ray.common.errors import InputError, JobError
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Experiment, Policy
from ossft_ray.distributed.rollout_worker import MAX_DEATHS
from ossft_ray.engines.gpus import alone_on
from ossft_ray.engines.vllm_policy import EngineDied, Sampling, VllmPolicy, check_engine_settings
from ossft_ray.method.rewriting import stage_prompt
from ossft_ray.method.thinking import is_unclosed, split_thinking
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.policy.model_location import fetch_weights, naming_model
from ossft_ray.stages.rewrite.server import Answer, ServerModel, check_server

_ENGINE = "[rewrite.external_alignment.engine]"


class ExternalModel(Protocol):
    """A model that answers prompts."""

    async def answer(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Answer: ...


def external_policy(experiment: Experiment) -> Policy | None:
    """The other model as a policy that is loaded here; None for a server's, or if the stage is not configured."""
    settings = experiment.rewrite.external_alignment
    if "external" not in experiment.rewrite.stages or settings.url:
        return None
    return Policy(model=settings.model, revision=settings.revision, engine=settings.engine, date=experiment.policy.date)


def check_external(experiment: Experiment) -> None:
    """Check the other model, if the stage is configured, without loading it or asking a server.

    Raises:
        InputError: it cannot be loaded, its engine arguments are unknown, or a server's client or key is missing.
    """
    if (policy := external_policy(experiment)) is not None:
        check_engine_settings(policy.engine, _ENGINE.strip("[]"))
        _load_chat(policy)
    elif "external" in experiment.rewrite.stages:
        check_server(experiment.rewrite.external_alignment)


def check_external_prompts(experiment: Experiment, problems: Sequence[Problem]) -> None:
    """Refuse a second engine whose context is too short for each of these problems' prompts.

    As for the policy, a response gets what is left of the context, if that is less than `max_tokens`.

    Raises:
        InputError: there is no token left for any response.
    """
    if (policy := external_policy(experiment)) is None or not problems:
        return
    chat = _load_chat(policy)
    prompts = (stage_prompt("external", each, experiment.rewrite, experiment.prompts) for each in problems)
    shortest = min(len(chat.render(prompt)) for prompt in prompts)
    if shortest >= chat.context_length:
        raise InputError(
            f"{_ENGINE} max_model_len: {policy.model} holds {chat.context_length} tokens here, and the guided prompts "
            f"of the first problems alone have {shortest} or more; raise it, or choose another model"
        )


def external_model(experiment: Experiment, num_gpus: float, on_start: Callable[[], None]) -> ExternalModel | None:
    """The other model; None if the stage is not configured.

    `num_gpus` is the share of a GPU, or the number of GPUs, that it uses together with the policy. `on_start` is called
    when an engine has started.
    """
    if (policy := external_policy(experiment)) is not None:
        return LocalModel(policy, num_gpus, on_start)
    return ServerModel(experiment.rewrite.external_alignment) if "external" in experiment.rewrite.stages else None


class LocalModel:
    """A model in its own engine, which starts with the first prompt and restarts if it dies."""

    def __init__(self, policy: Policy, num_gpus: float, on_start: Callable[[], None]) -> None:
        self._policy, self._num_gpus, self._on_start = policy, num_gpus, on_start
        self._chat = _load_chat(policy)
        self._engine: VllmPolicy | None = None
        self._loading = asyncio.Lock()
        self._deaths = 0

    async def answer(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Answer:
        """One response to a prompt.

        Raises:
            PromptTooLong: no token fits into the model's context after the prompt.
            JobError: its engine died again and again.
        """
        prompt_ids = await asyncio.to_thread(self._chat.render, prompt)
        while True:
            engine = None
            try:
                engine = await self._loaded()
                response = await engine.sample(prompt_ids, sampling, seed, request_id)
            except EngineDied as death:
                await self._discard(engine, death)
                continue
            self._deaths = 0
            is_open = is_unclosed(response.text, response.in_thinking)
            finish_reason = "length" if is_open else response.finish_reason
            return Answer(response.text, finish_reason, len(prompt_ids), len(response.token_ids))

    async def _loaded(self) -> VllmPolicy:
        async with self._loading:
            if self._engine is None:
                fetch_weights(self._policy)
                with alone_on(ray.get_gpu_ids()):
                    self._engine = VllmPolicy(self._policy, self._chat, num_gpus=self._num_gpus)
                self._on_start()
            return self._engine

    async def _discard(self, engine: VllmPolicy | None, death: EngineDied) -> None:
        async with self._loading:
            if engine is not self._engine:
                return  # another request has discarded it
            self._deaths += 1
            if self._engine is not None:
                await asyncio.to_thread(self._engine.shutdown)
                self._engine = None
        if self._deaths >= MAX_DEATHS:
            raise JobError(
                f"[rewrite.external_alignment] the engine of {self._policy.model} died {self._deaths} times in a row: "
                f"{death}; if memory is short, lower gpu_memory_utilization in both engines"
            )


def as_response(answer: Answer, chat: Chat, max_tokens: int) -> Response:
    """The answer without its thinking, in the policy's tokens; unfinished if these are more than `max_tokens`."""
    text = chat.close_thinking(split_thinking(answer.text)[1].strip())
    token_ids = chat.encode_response(text)
    finish_reason = "length" if len(token_ids) > max_tokens else answer.finish_reason
    return Response(text, token_ids, finish_reason, chat.opens_thinking)


def _load_chat(policy: Policy) -> Chat:
    with naming_model("[rewrite.external_alignment] model", _ENGINE):
        return load_chat(policy)
