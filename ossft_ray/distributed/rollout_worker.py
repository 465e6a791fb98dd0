"""Policies at work: one Ray Data actor holds one vLLM engine and its verifiers, with many problems in flight.

Rewriting and evaluation differ only in what they do with a part. A worker reads a part's problems, keeps them in flight
against the engine, and writes the part's rows when the last is done; further parts are in flight meanwhile, so the
engine never waits for a part's slow tail. An engine that dies is started again, and what it was asked is asked again.
"""

import asyncio
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import ray

from ossft_ray.common.errors import InputError, JobError, brief
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Experiment
from ossft_ray.distributed.cluster_metrics import ClusterMetrics
from ossft_ray.distributed.logs import log_folder, redirect_output
from ossft_ray.distributed.processes import Processes, own_processes
from ossft_ray.distributed.progress import REPORT_SECONDS
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.engines.in_flight import InFlight, problems_in_flight
from ossft_ray.engines.vllm_policy import EngineDied, Sampling, VllmPolicy
from ossft_ray.policy.chat import load_chat
from ossft_ray.verification import Verdict, VerifierPool

MAX_DEATHS = 3  # of an engine or an actor, one after the other and with nothing done between them


class RolloutWorker:
    """One policy with its verifiers. Subclasses say in `process` what becomes of a part."""

    def __init__(self, experiment: Experiment, tally: Any, log_name: str, verbose: bool) -> None:
        if not verbose:
            redirect_output(experiment, f"{log_name}-{ray.get_runtime_context().get_actor_id()[:8]}")
        check_sees_run(experiment)
        self.experiment = experiment
        self.chat = load_chat(experiment.policy)
        self.verifiers = VerifierPool.of(experiment.verify)
        self.metrics = ClusterMetrics(experiment.run.output, log_name)
        self.life = uuid.uuid4().hex[:12]  # Ray starts an actor that was killed again
        print(f"worker {self.life} on {socket.gethostname()}", flush=True)
        self.counts: Counter[str] = Counter()  # of this life
        self.progress: dict[str, Counter[str]] = {}  # of each part under way, which another life may begin anew
        self._tally, self._reported_at, self._report_after = tally, 0.0, REPORT_SECONDS
        tally.enrol.remote(ray.get_runtime_context().current_actor)
        self._processes: list[Processes] = []
        self._policy: VllmPolicy | None = None
        self._loading = asyncio.Lock()
        self._ready_at = 0.0
        self._deaths = 0
        self.cut_off: Counter[str] = Counter()  # how often a request was in flight when the engine died
        self.in_flight = InFlight(problems_in_flight(experiment))
        self._num_verdicts = 0
        self.metrics.watch("ossft_requests_in_flight", lambda: self.in_flight.num_requests)
        self.metrics.watch("ossft_verdicts_in_flight", lambda: self._num_verdicts)

    async def __call__(self, batch: dict[str, np.ndarray]) -> AsyncIterator[dict[str, list[str]]]:
        parts = [str(part) for part in batch["part"]]
        try:
            for part in parts:
                await self.process(part)
        except Exception as error:
            traceback.print_exc()
            await self._tally.fail.remote(failure(error, self.experiment))  # Ray Data would keep the cause to itself
            raise
        await self.report(at_once=True)
        for part in parts:
            self.progress.pop(part, None)
        yield {"part": parts}

    async def process(self, part: str) -> None:
        """Read the part's problems, let the policy work on all of them at once, write the part's rows."""
        raise NotImplementedError

    def keeps_logprobs(self) -> bool:
        """Whether responses come with the log-probabilities that their tokens were drawn with."""
        return False

    def start_policy(self) -> VllmPolicy:
        self.verifiers.warm_up()  # while the engine loads, or the first verdicts would take its processors
        return VllmPolicy(self.experiment.policy, self.chat, self.keeps_logprobs())

    @asynccontextmanager
    async def a_place_in_flight(self) -> AsyncIterator[None]:
        """Held by a problem while it is worked on; problems get it in the order in which they come."""
        async with self.in_flight.problem():
            yield
        await self.report()

    async def render(self, prompt: list[Message]) -> list[int]:
        return await asyncio.to_thread(self.chat.render, prompt)

    async def sample(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Response:
        """One response to a prompt. Where the engine dies meanwhile, the same draw is made again by the next one.

        Raises:
            PromptTooLong: the prompt leaves no room for a response.
            JobError: engines die again and again.
        """
        with self.in_flight.request():
            prompt_ids = await self.render(prompt)
            while True:
                policy = await self._loaded_policy()
                try:
                    response = await policy.sample(prompt_ids, sampling, seed, request_id)
                except EngineDied as death:
                    await self._bury(policy, death)
                    self.cut_off[request_id] += 1
                    continue
                self._deaths = 0
                self.counts["generated_tokens"] += len(response.token_ids)
                self.metrics.count("ossft_generated_tokens", len(response.token_ids))
                self.counts["sampling_ms"] = round(1000 * (time.monotonic() - self._ready_at))
                return response

    async def verify(self, problem: Problem, response: str) -> Verdict:
        self._num_verdicts += 1
        try:
            verdict = await self.verifiers.verify(problem.answer, response, problem.question, problem.verifier)
        finally:
            self._num_verdicts -= 1
        self.metrics.count("ossft_verdicts", reason=verdict.reason)
        return verdict

    async def report(self, at_once: bool = False) -> None:
        """Tell the driver this life's counts, now and then or at once."""
        if at_once or time.monotonic() - self._reported_at > self._report_after:
            self._reported_at = time.monotonic()
            await self._tell()

    async def _tell(self) -> None:
        this = ray.get_runtime_context().current_actor
        progress = {part: dict(counts) for part, counts in self.progress.items()}
        counts = dict(self.counts)
        self._report_after = await self._tally.put.remote(this, self.life, counts, progress, self._processes)

    async def _loaded_policy(self) -> VllmPolicy:
        async with self._loading:  # the engine must be made inside the running loop, once
            while self._policy is None:
                began = time.monotonic()
                try:
                    self._policy = self.start_policy()
                except EngineDied as death:
                    self._count_death(death)
                    continue
                self.counts["loading_ms"] += round(1000 * (time.monotonic() - began))
                self._ready_at = self._ready_at or time.monotonic()
                self._processes.append(own_processes())
                await self._tell()
            return self._policy

    async def _bury(self, policy: VllmPolicy, death: EngineDied) -> None:
        """Clear an engine that died away, so that the next request starts another."""
        async with self._loading:
            if self._policy is policy:  # else another request has seen to it
                self._policy = None
                await asyncio.to_thread(policy.shutdown)
                self._count_death(death)

    def _count_death(self, death: EngineDied) -> None:
        self._deaths += 1
        self.counts["engine_deaths"] += 1
        self.metrics.count("ossft_engine_deaths")
        print(f"the engine died ({death}); starting another", flush=True)
        if self._deaths >= MAX_DEATHS:
            folder = log_folder(self.experiment)
            where = f"; logs: {folder}" if folder else ""
            raise JobError(f"the engine died {self._deaths} times without a response between: {death}{where}")


def failure(error: BaseException, experiment: Experiment) -> InputError | JobError:
    """What a failed plan says to its user: our own refusal as it is, else the root cause in one line."""
    cause: BaseException = error
    while inner := getattr(cause, "cause", None) or cause.__cause__:  # a RayTaskError has the former
        if not isinstance(inner, BaseException) or inner is cause:
            break
        cause = inner
    if isinstance(cause, InputError | JobError):
        return cause
    if isinstance(cause, OSError):
        return JobError(f"{experiment.run.output}: {brief(cause)}; the same command goes on where it stopped")
    lines = [line for line in str(cause).splitlines() if line.strip()]
    summary = f"{type(cause).__name__}: {lines[-1].strip()}" if lines else type(cause).__name__
    folder = log_folder(experiment)
    where = f"; logs: {folder}" if folder else ""
    return JobError(f"{summary}{where}; the same command goes on where it stopped")
