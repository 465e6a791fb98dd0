"""Base class of the sampling workers: one Ray Data actor with one vLLM engine, its verifiers, and many problems.

Rewriting and evaluation differ only in what they do with a part, a numbered share of the problems. A worker keeps the
requests of its parts' problems in flight, and writes a part's rows when its last problem is done. It works on several
parts at once, so the engine never idles while the last responses of one part are sampled. An engine that dies is
replaced, and its requests are sent again.
"""

import asyncio
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import ray
from ray.exceptions import RayError

from ossft_ray.common.errors import JobError
from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.types import Problem, Response
from ossft_ray.config import Experiment
from ossft_ray.distributed.cluster_metrics import ClusterMetrics
from ossft_ray.distributed.logs import engine_fault, explain_failure, redirect_output, see_logs
from ossft_ray.distributed.nodes import Processes, current_processes
from ossft_ray.distributed.progress import REPORT_SECONDS
from ossft_ray.distributed.shared_output import check_sees_run
from ossft_ray.engines.gpus import alone_on
from ossft_ray.engines.in_flight import InFlight, problems_in_flight, spare_below
from ossft_ray.engines.vllm_policy import EngineDied, Sampling, VllmPolicy
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import fetch_weights, model_path
from ossft_ray.policy.rendered_prompts import RenderedPrompts
from ossft_ray.verification import Verdict, VerifierPool
from ossft_ray.verification.kinds import judge

_Answer = TypeVar("_Answer")
MAX_DEATHS = 3  # consecutive deaths of engines or actors, without a response in between


class RolloutWorker:
    """One policy with its verifiers. Subclasses implement `process` for a part."""

    def __init__(
        self, experiment: Experiment, tally: Any, log_name: str, verbose: bool, max_length: int | None = None
    ) -> None:
        """`tally` is a handle of the `ProgressTally`. The log's name starts with `log_name`; `verbose` prints instead.

        `max_length` limits what the engine holds, as in `VllmPolicy`.
        """
        self._log_name = f"{log_name}-{ray.get_runtime_context().get_actor_id()[:8]}"
        if not verbose:
            redirect_output(experiment, self._log_name)
        check_sees_run(experiment)
        self.experiment, self.max_length = experiment, max_length
        self.chat = load_chat(experiment.policy)
        self.prompts = RenderedPrompts(self.chat, 2 * problems_in_flight(experiment))  # two stages
        self.verifiers = VerifierPool(experiment.verify)
        self.metrics = ClusterMetrics(experiment.run.output, log_name)
        self.worker_id = uuid.uuid4().hex[:12]  # a new one when Ray restarts the actor
        print(f"worker {self.worker_id} on {socket.gethostname()}", flush=True)
        self.counts: Counter[str] = Counter()  # of this worker
        self.progress: dict[str, Counter[str]] = {}  # of each part in progress; another worker may take the part over
        self._tally, self._report_after = tally, REPORT_SECONDS
        self._reporting: asyncio.Task[None] | None = None
        self._num_before = 0  # tokens that engines sampled before they died
        tally.register.remote(ray.get_runtime_context().current_actor)
        self._processes: list[Processes] = []
        self._policy: VllmPolicy | None = None
        self._loading = asyncio.Lock()
        self._deaths = 0
        self._failure: JobError | None = None  # of an engine that cannot be replaced
        self.interruptions: Counter[str] = Counter()  # by request: how often the engine died while it was in flight
        # What the plan gives this worker; more may be visible.
        self.num_gpus = float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))
        self.in_flight = InFlight(problems_in_flight(experiment), spare_below(self.num_gpus))
        self._num_verdicts = 0
        self.metrics.watch("ossft_requests_in_flight", lambda: self.in_flight.num_requests)
        self.metrics.watch("ossft_verdicts_in_flight", lambda: self._num_verdicts)

    async def __call__(self, batch: dict[str, np.ndarray]) -> AsyncIterator[dict[str, list[str]]]:
        (part,) = map(str, batch["part"])
        self._reporting = self._reporting or asyncio.create_task(self._report_regularly())
        try:
            await self.process(part)
        except Exception as error:
            traceback.print_exc()
            # Ray Data does not pass the cause on
            await self._tally.record_failure.remote(explain_failure(error, self.experiment))
            raise
        await self._report_now()
        self.progress.pop(part, None)
        yield {"part": [part]}

    async def process(self, part: str) -> None:
        """Read the part's problems, let the policy work on all of them at once, write the part's rows."""
        raise NotImplementedError

    def keeps_logprobs(self) -> bool:
        """Whether responses come with the log-probabilities that their tokens were sampled with."""
        return False

    def start_policy(self) -> VllmPolicy:
        """Load an engine, which takes minutes for a large model; raises EngineDied."""
        self.verifiers.warm_up()  # while the engine loads; later they would take CPUs from the first verdicts
        fetch_weights(self.experiment.policy)
        with alone_on(ray.get_gpu_ids()):  # engines may share a GPU
            return VllmPolicy(self.experiment.policy, self.chat, self.keeps_logprobs(), self.num_gpus, self.max_length)

    async def switch_policy(self, experiment: Experiment) -> None:
        """Sample from another policy of the same shape from now on; nothing may be in flight.

        Its weights are loaded into the running engine. If that fails, a new engine starts with them.
        """
        async with self._loading:
            self.experiment, self.chat = experiment, load_chat(experiment.policy)
            self.prompts = RenderedPrompts(self.chat, 2 * problems_in_flight(experiment))
            policy, path = self._policy, model_path(experiment.policy.model, weights=True)
            if policy is None:
                return
            await asyncio.to_thread(fetch_weights, experiment.policy)
            try:
                await policy.load_weights(path)
                policy.chat = self.chat
                return
            except EngineDied as error:
                death = error
        await self._discard_engine(policy, death)

    @asynccontextmanager
    async def problem_slot(self) -> AsyncIterator[None]:
        """Hold a slot while a problem is worked on; problems get one in the order in which they ask."""
        async with self.in_flight.problem():
            yield

    async def sample(self, prompt: list[Message], sampling: Sampling, seed: int, request_id: str) -> Response:
        """One response to a prompt. If the engine dies, the next engine samples the same response again.

        Raises:
            PromptTooLong: no token fits into the context after the prompt.
            JobError: `MAX_DEATHS` engines died in a row.
        """
        prompt_ids = await self.prompts.render(prompt)
        response = await self._ask(lambda policy: policy.sample(prompt_ids, sampling, seed, request_id), request_id)
        self.counts.update(draws=1, generated_tokens=len(response.token_ids))
        self.metrics.count("ossft_generated_tokens", len(response.token_ids))
        return response

    async def mean_logprob(self, prompt: list[Message], token_ids: list[int], request_id: str) -> float:
        """Mean log p of these tokens under the policy after a prompt, in nats; raises JobError as `sample` does."""
        prompt_ids = await self.prompts.render(prompt)
        return await self._ask(lambda policy: policy.mean_logprob(prompt_ids, token_ids, request_id), request_id)

    async def _ask(self, ask: Callable[[VllmPolicy], Awaitable[_Answer]], request_id: str) -> _Answer:
        """The engine's answer. Each engine that dies before it answers is replaced, and counts as an interruption."""
        with self.in_flight.request():
            while True:
                policy = await self._loaded_policy()
                try:
                    with self.in_flight.sampling():
                        answer = await ask(policy)
                except EngineDied as death:
                    await self._discard_engine(policy, death)
                    self.interruptions[request_id] += 1
                    continue
                self._deaths = 0
                return answer

    async def verify(self, problem: Problem, response: str) -> Verdict:
        """The verdict on a response to a problem."""
        self._num_verdicts += 1
        try:
            if (problem.verifier or self.experiment.verify.kind) == judge.KIND:
                verdict = await judge.judge(problem, response, self._ask_judge)
            else:
                verdict = await self.verifiers.verify(problem.answer, response, problem.question, problem.verifier)
        finally:
            self._num_verdicts -= 1
        self.metrics.count("ossft_verdicts", reason=verdict.reason)
        return verdict

    async def _ask_judge(self, prompt: list[Message]) -> str:
        """The engine's choice between the judge's verdicts."""
        prompt_ids = await asyncio.to_thread(self.chat.render, prompt)
        request_id = f"judge/{uuid.uuid4().hex}"
        sampling = Sampling.among(judge.VERDICTS)
        response = await self._ask(lambda policy: policy.sample(prompt_ids, sampling, 0, request_id), request_id)
        self.interruptions.pop(request_id, None)
        return response.text

    def num_sampled_tokens(self) -> int:
        """The tokens sampled so far, including those of unfinished responses."""
        if not isinstance(self._policy, VllmPolicy):  # not ready, or a scripted one
            return max(self._num_before, self.counts["generated_tokens"])
        return self._num_before + self._policy.num_sampled_tokens()

    async def _report_regularly(self) -> None:
        """Report while the policy samples: draws and tokens are shown before the first problem is done."""
        with suppress(RayError):  # the tally ends with the driver
            while True:
                await asyncio.sleep(self._report_after)
                if self.progress and self._policy is not None:
                    await self._report_now()

    async def _report_now(self) -> None:
        self.counts["sampled_tokens"] = self.num_sampled_tokens()
        self.counts["sampling_ms"] = round(1000 * self.in_flight.sampled_seconds)
        self.counts["requests"] = self.in_flight.num_requests
        actor = ray.get_runtime_context().current_actor
        counts = {name: dict(each) for name, each in {self.worker_id: self.counts, **self.progress}.items()}
        self._report_after = await self._tally.report.remote(actor, self.worker_id, counts, self._processes)

    def record_processes(self) -> None:
        """Let the driver wait at the end for the processes that this one has started so far."""
        self._processes.append(current_processes())

    async def _loaded_policy(self) -> VllmPolicy:
        async with self._loading:  # the engine must be made inside the running loop, once
            while self._policy is None:
                if self._failure is not None:  # another request has met it
                    raise self._failure
                began = time.monotonic()
                try:
                    self._policy = self.start_policy()
                except EngineDied as death:
                    self._record_death(death)
                    continue
                self.counts["loading_ms"] += round(1000 * (time.monotonic() - began))
                self.record_processes()
                await self._report_now()
            return self._policy

    async def _discard_engine(self, policy: VllmPolicy, death: EngineDied) -> None:
        async with self._loading:
            if self._policy is policy:  # else another request has discarded it
                self._num_before = self.num_sampled_tokens()
                self._policy = None
                await asyncio.to_thread(policy.shutdown)
                self._record_death(death)

    def _record_death(self, death: EngineDied) -> None:
        """Count a death; raises JobError if too many came in a row."""
        self._deaths += 1
        self.counts["engine_deaths"] += 1
        self.metrics.count("ossft_engine_deaths")
        if self._deaths >= MAX_DEATHS:
            reason = engine_fault(self.experiment, self._log_name) or str(death)
            logs = see_logs(self.experiment)
            self._failure = JobError(
                f"the engine died {self._deaths} times in a row without a response: {reason}{logs}"
            )
            raise self._failure
        print(f"the engine died ({death}); starting another", flush=True)
