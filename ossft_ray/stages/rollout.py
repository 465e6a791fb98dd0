"""Policies at work: one Ray Data actor holds one vLLM engine and its verifiers, with many parts in flight.

Rewriting and evaluation differ only in what they do with a part. A worker reads a part's problems, keeps all of them
in flight at once against the engine, and writes the part's rows when the last is done; further parts are in
flight meanwhile, so the engine never waits for a part's slow tail.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from ossft_ray.config import Experiment
from ossft_ray.engines.chat import load_chat
from ossft_ray.engines.vllm_policy import Sampling, VllmPolicy
from ossft_ray.errors import InputError, JobError
from ossft_ray.method.prompts import Message
from ossft_ray.method.rewriting import Response
from ossft_ray.stages.cluster import log_folder, place, redirect_output
from ossft_ray.stages.processes import await_ends, own_processes
from ossft_ray.stages.progress import OnProgress, Tally, watch
from ossft_ray.verification import Verdict, VerifierPool

PARTS_IN_FLIGHT = 64  # a policy; with parts of 16 problems, some 1,000 problems


class RolloutWorker:
    """One policy with its verifiers. Subclasses say in `process` what becomes of a part."""

    def __init__(self, experiment: Experiment, tally: Any, log_name: str, verbose: bool) -> None:
        if not verbose:
            redirect_output(experiment, f"{log_name}-{ray.get_runtime_context().get_actor_id()[:8]}")
        self.experiment, self.tally = experiment, tally
        self.chat = load_chat(experiment.policy)
        verify = experiment.verify
        self.verifiers = VerifierPool(verify.kind, verify.timeout_seconds, verify.num_workers)
        self._policy: VllmPolicy | None = None
        self._loading = asyncio.Lock()

    async def __call__(self, batch: dict[str, np.ndarray]) -> AsyncIterator[dict[str, list[str]]]:
        parts = [str(part) for part in batch["part"]]
        for part in parts:
            await self.process(part)
        yield {"part": parts}

    async def process(self, part: str) -> None:
        """Read the part's problems, let the policy work on all of them at once, write the part's rows."""
        raise NotImplementedError

    async def sample(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Response:
        policy = await self._loaded_policy()
        response = await policy.sample(prompt, sampling, seed, request_id)
        self.tally.add.remote({"generated_tokens": len(response.token_ids)})
        return response

    async def verify(self, answer: str, response: str) -> Verdict:
        return await self.verifiers.verify(answer, response)

    async def _loaded_policy(self) -> VllmPolicy:
        async with self._loading:  # the engine must be made inside the running loop, once
            if self._policy is None:
                self._policy = VllmPolicy(self.experiment.policy, self.chat)
                await self.tally.register.remote(own_processes())
            return self._policy


def run_workers(
    worker: type[RolloutWorker],
    experiment: Experiment,
    parts: list[str],
    log_name: str,
    on_progress: OnProgress | None,
    verbose: bool,
    **settings: Any,
) -> None:
    """Let a pool of workers process all `parts`; `on_progress` gets the tally's totals about twice a second.

    Raises:
        InputError: a worker refused its input.
        JobError: a worker failed; names the cause and the log folder.
    """
    if not parts:
        return
    placement = place(experiment.resources, int(experiment.policy.engine.get("tensor_parallel_size", 1)))
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    tally = Tally.remote()  # type: ignore[attr-defined]
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts)).map_batches(
        worker,
        fn_constructor_kwargs={
            "experiment": experiment,
            "tally": tally,
            "log_name": log_name,
            "verbose": verbose,
            **settings,
        },
        batch_size=1,
        num_cpus=1,
        num_gpus=placement.gpus_per_policy,
        compute=ActorPoolStrategy(
            size=min(placement.num_policies, len(parts)),
            max_tasks_in_flight_per_actor=PARTS_IN_FLIGHT,
            max_concurrent_calls_per_actor=PARTS_IN_FLIGHT,
        ),
    )
    report = on_progress or (lambda totals: None)
    try:
        watch(dataset.materialize, poll=lambda: report(ray.get(tally.totals.remote())))
    except (RayError, RuntimeError) as error:
        raise job_error(error, experiment) from error
    del dataset  # it holds the actors
    await_ends(ray.get(tally.processes.remote()))


def job_error(error: BaseException, experiment: Experiment) -> Exception:
    """What a failed plan says to its user: our own refusal as it is, else the root cause in one line."""
    cause: BaseException = error
    while True:
        inner = cause.cause if isinstance(cause, RayTaskError) else cause.__cause__
        if not isinstance(inner, BaseException) or inner is cause:
            break
        cause = inner
    if isinstance(cause, InputError | JobError):
        return cause
    lines = [line for line in str(cause).splitlines() if line.strip()]
    summary = f"{type(cause).__name__}: {lines[-1].strip()}" if lines else type(cause).__name__
    folder = log_folder(experiment)
    where = f"; logs: {folder}" if folder else ""
    return JobError(f"{summary}{where}; the same command goes on where it stopped")
