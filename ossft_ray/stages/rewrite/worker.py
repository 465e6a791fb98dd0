"""The rewriting worker: one policy that turns parts of problems into parts of examples."""

import asyncio
import socket
import time
from collections import Counter
from dataclasses import replace
from functools import cached_property
from typing import Any

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Response, RewriteResult, Stage
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.rewriting import derive_seed, rewrite_problem, stage_prompt, stage_settings
from ossft_ray.run_folder.names import PROBLEMS, REWRITE
from ossft_ray.run_folder.parts import Row, write_part
from ossft_ray.stages.rewrite.attempt_log import AttemptLog
from ossft_ray.stages.rewrite.external import as_response, external_model
from ossft_ray.stages.rewrite.manifest import part_counts
from ossft_ray.stages.rewrite.regrading import regrade
from ossft_ray.stages.rewrite.rows import part_rows
from ossft_ray.stages.rewrite.solved import SolvedProblems


class RewriteWorker(RolloutWorker):
    """Turns parts of problems into parts of examples."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.folder = Folder.at(self.experiment.run.output) / REWRITE
        self.external = external_model(self.experiment, self.num_gpus, self.record_processes)

    @cached_property
    def solved(self) -> SolvedProblems | None:
        folder = self.experiment.rewrite.solved_in
        return SolvedProblems(Folder.at(folder)) if folder else None

    def keeps_logprobs(self) -> bool:
        return self.experiment.rewrite.behavior_logprobs

    async def process(self, part: str) -> None:
        started = time.time()
        problems, log = await asyncio.to_thread(self.read, part)
        copied = await asyncio.to_thread(self.solved.rows, problems) if self.solved else {}
        progress = self.progress[part] = Counter()
        for rows in copied.values():
            progress.update(["problems", rows[0]["origin"]])
        unsolved = [problem for problem in problems if problem.problem_id not in copied]
        results = await asyncio.gather(*(self.rewrite(problem, log, progress) for problem in unsolved))
        stages = self.experiment.rewrite.stages
        counts = await part_counts(results, self.prompt_tokens, self.verify, stages, copied.values())
        counts |= log.extra_work([(each.problem_id, made) for each, result in results for made in result.attempts])
        counts |= {"host": socket.gethostname(), "started": started, "ended": time.time()}
        await asyncio.to_thread(self.write, part, results, copied, counts)  # other parts are being worked on
        await asyncio.to_thread(log.delete)

    def read(self, part: str) -> tuple[list[Problem], AttemptLog]:
        problems = [Problem(**row) for row in (self.folder / PROBLEMS).read_table(part).to_pylist()]
        return problems, AttemptLog(self.folder, part, self.worker_id, self.experiment.rewrite.keep_attempts)

    def write(
        self,
        part: str,
        results: list[tuple[Problem, RewriteResult]],
        copied: dict[str, list[Row]],
        counts: dict[str, Any],
    ) -> None:
        """Write the part's rows."""
        examples, dropped, appended = part_rows(results, self.chat, self.experiment)
        examples += [row for rows in copied.values() for row in rows]
        write_part(self.folder, part, examples, dropped, counts | {"answers_appended": appended})

    async def rewrite(self, problem: Problem, log: AttemptLog, progress: Counter[str]) -> tuple[Problem, RewriteResult]:
        settings = self.experiment.rewrite

        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            """The response that the run's seed, the problem, the stage and the index determine."""
            alignment = stage_settings(stage, settings)
            sampling = Sampling.of(alignment, settings.max_repeats)
            seed = derive_seed(self.experiment.run.seed, problem.problem_id, stage, index)
            request_id = f"{problem.problem_id}/{stage}/{index}"
            log.begin(problem.problem_id, stage, index)
            if stage == "external":
                return await self.sample_external(problem, prompt, sampling, seed, request_id, log)
            response = await self.sample(prompt, sampling, seed, request_id)
            for _ in range(self.interruptions.pop(request_id, 0)):  # each time the engine died, the sample began again
                log.begin(problem.problem_id, stage, index)
            return response

        async with self.problem_slot():
            outdated = log.take_outdated(problem)
            for attempt in await regrade(problem, outdated, self.verify, settings):
                log.end(problem, attempt)
            result = await rewrite_problem(
                problem,
                sample,
                self.verify,
                settings,
                self.experiment.prompts,
                known_attempts=log.attempts(problem),
                on_attempt=lambda attempt: log.end(problem, attempt),
                spare_capacity=self.in_flight.spare_capacity,
            )
            progress.update(["problems", result.origin or "dropped"])
            self.metrics.count("ossft_problems", origin=result.origin or "dropped")
        return problem, result

    async def sample_external(
        self, problem: Problem, prompt: list[Message], sampling: Sampling, seed: int, request_id: str, log: AttemptLog
    ) -> Response:
        """The other model's response in the policy's tokens, with its gap if there is a limit; logs what it cost."""
        assert self.external is not None, "the stage is configured"
        answer = await self.external.answer(prompt, sampling, seed, request_id)
        log.pay(answer.prompt_tokens, answer.completion_tokens)
        self.counts.update(draws=1)
        settings = self.experiment.rewrite
        plain_prompt = stage_prompt("self", problem, settings, self.experiment.prompts)
        num_left = (self.max_length or self.chat.context_length) - len(await self.prompts.render(plain_prompt))
        response = as_response(answer, self.chat, num_left - 1)
        if response.finish_reason != "stop" or settings.external_alignment.max_gap is None:
            return response
        return replace(response, gap=-await self.mean_logprob(plain_prompt, response.token_ids, f"{request_id}/gap"))

    async def prompt_tokens(self, problem: Problem, stage: Stage) -> int:
        prompt = stage_prompt(stage, problem, self.experiment.rewrite, self.experiment.prompts)
        return len(await self.prompts.render(prompt))
