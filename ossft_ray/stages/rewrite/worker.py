"""A policy at rewriting: one part of problems in, one part of examples out."""

import asyncio
import dataclasses
import socket
import time
from collections import Counter
from typing import Any

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, Response, Rewritten, Stage
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.rewriting import derive_seed, rewrite_problem, stage_prompt
from ossft_ray.run_folder.names import PROBLEMS, REWRITE
from ossft_ray.run_folder.parts import write_part
from ossft_ray.stages.rewrite.attempt_log import AttemptLog
from ossft_ray.stages.rewrite.calibration import Calibration
from ossft_ray.stages.rewrite.manifest import part_counts
from ossft_ray.stages.rewrite.parroting_probe import Probe
from ossft_ray.stages.rewrite.regrading import regrade
from ossft_ray.stages.rewrite.rows import dropped_row, example_rows


class RewriteWorker(RolloutWorker):
    """Turns parts of problems into parts of examples."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.folder = Folder.at(self.experiment.run.output) / REWRITE
        self.calibration = Calibration(self.folder, self.experiment, self.draw, self.verify)
        self.probe = Probe(self.folder, self.experiment, self.sample, self.verify)

    def keeps_logprobs(self) -> bool:
        return self.experiment.rewrite.behavior_logprobs

    async def process(self, part: str) -> None:
        started = time.time()
        problems = [Problem(**row) for row in (self.folder / PROBLEMS).read_table(part).to_pylist()]
        log = AttemptLog(self.folder, part, self.worker_id, self.experiment.rewrite.keep_attempts)
        progress = self.progress[part] = Counter()
        probing = asyncio.gather(*map(self.probe.outcome, problems))
        done = await asyncio.gather(*(self.rewrite(problem, log, progress) for problem in problems))
        examples = [
            row for problem, rewritten in done for row in example_rows(problem, rewritten, self.chat, self.experiment)
        ]
        dropped = [
            dropped_row(problem, rewritten, self.experiment) for problem, rewritten in done if not rewritten.origin
        ]
        parroting = [outcome for outcome in await probing if outcome is not None]
        counts = await part_counts(done, log, self.prompt_tokens, self.is_same_answer)
        counts |= {"parroting": parroting, "host": socket.gethostname(), "started": started, "ended": time.time()}
        write_part(self.folder, part, examples, dropped, counts)
        log.delete()

    async def rewrite(self, problem: Problem, log: AttemptLog, progress: Counter[str]) -> tuple[Problem, Rewritten]:
        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            log.begin(problem.problem_id, stage, index)
            response = await self.calibration.draw(problem, stage, index)
            for _ in range(self.interruptions.pop(request_id(problem, stage, index), 0)):
                log.begin(problem.problem_id, stage, index)
            return response

        made = log.of(problem)
        async with self.problem_slot():
            for attempt in await regrade(
                problem, log.take_outdated(problem), self.verify, self.experiment.rewrite.keep_per_problem
            ):
                made[attempt.stage, attempt.index] = attempt
            rewritten = await rewrite_problem(
                problem,
                sample,
                self.verify,
                self.experiment.rewrite,
                self.experiment.prompts,
                made=made,
                room=self.in_flight.room,
                max_copied=self.calibration.max_copied,
            )
            progress.update(["problems", rewritten.origin or "dropped"])
            self.metrics.count("ossft_problems", origin=rewritten.origin or "dropped")
        return problem, rewritten

    async def draw(self, problem: Problem, stage: Stage, index: int) -> Response:
        """The response that this run's seed, the problem, the stage and the index determine."""
        settings = self.experiment.rewrite
        stage_settings = settings.self_alignment if stage == "self" else settings.guided_alignment
        sampling = Sampling(
            stage_settings.temperature, stage_settings.top_p, stage_settings.max_tokens, settings.max_repeats
        )
        seed = derive_seed(self.experiment.run.seed, problem.problem_id, stage, index)
        prompt = stage_prompt(stage, problem, settings, self.experiment.prompts)
        return await self.sample(prompt, sampling, seed, request_id(problem, stage, index))

    async def is_same_answer(self, problem: Problem, answer: str, other: str) -> bool:
        """Whether two answers that were read from responses are the same to the problem's verifier."""
        return (await self.verify(dataclasses.replace(problem, answer=answer), rf"\boxed{{{other}}}")).correct

    async def prompt_tokens(self, problem: Problem, stage: Stage) -> int:
        return len(await self.render(stage_prompt(stage, problem, self.experiment.rewrite, self.experiment.prompts)))


def request_id(problem: Problem, stage: Stage, index: int) -> str:
    return f"{problem.problem_id}/{stage}/{index}"
