"""Is guided re-solving real? On a seeded sample of problems the policy sees a guide whose answer is wrong.

What it then writes is graded against the true answer and against the wrong one; nothing of it is kept as an example.
The sample and the draws derive from the run's seed and the problem's id, so workers agree without a word, and a part
that is made again comes to the same.
"""

import asyncio
import dataclasses
import heapq
import random
from collections.abc import Awaitable, Callable

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, PromptTooLong, Response
from ossft_ray.config import Experiment
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.parroting import Outcome, corrupt, outcome
from ossft_ray.method.rewriting import Verify, derive_seed, is_finished, stage_prompt
from ossft_ray.run_folder.names import PARTS, PROBLEMS

_NAME = "parroting"
Draw = Callable[[list[Message], Sampling, int, str], Awaitable[Response]]
"""(prompt, sampling, seed, request id) -> a response."""


class Probe:
    """One worker's part in the probe."""

    def __init__(self, folder: Folder, experiment: Experiment, draw: Draw, verify: Verify) -> None:
        self._folder, self._experiment, self._draw, self._verify = folder, experiment, draw, verify
        self._chosen: set[str] | None = None
        self._reading = asyncio.Lock()

    async def outcome(self, problem: Problem) -> Outcome | None:
        """What a guided response to a corrupted guide did; None for a problem that is not in the sample."""
        experiment = self._experiment
        if not experiment.rewrite.parroting_probe or problem.problem_id not in await self._sample():
            return None
        seed = self._seed(problem.problem_id)
        corrupted = corrupt(str(problem.expert_solution), problem.answer, random.Random(seed))
        if corrupted is None:
            return "skipped"
        guided = experiment.rewrite.guided_alignment
        sampling = Sampling(guided.temperature, guided.top_p, guided.max_tokens, experiment.rewrite.max_repeats)
        misled = dataclasses.replace(problem, expert_solution=corrupted.guide)
        prompt = stage_prompt("guided", misled, experiment.rewrite, experiment.prompts)
        try:
            response = await self._draw(prompt, sampling, seed, f"{problem.problem_id}/{_NAME}")
        except PromptTooLong:
            return "skipped"
        if not is_finished(response):
            return "other"
        wrong = dataclasses.replace(problem, answer=corrupted.wrong_answer)
        verdicts = [await self._verify(graded, response.text) for graded in (problem, wrong)]
        return outcome(*(verdict.correct for verdict in verdicts))

    async def _sample(self) -> set[str]:
        """Ids of the problems to probe, of those that have an answer and an expert solution."""
        async with self._reading:
            if self._chosen is None:
                folder = self._folder / PROBLEMS
                names = [
                    row["problem_id"]
                    for part in folder.names(PARTS)
                    for row in folder.read_table(part).to_pylist()
                    if row["answer"] and row["expert_solution"]
                ]
                self._chosen = set(heapq.nsmallest(self._experiment.rewrite.parroting_probe, names, key=self._seed))
            return self._chosen

    def _seed(self, problem_id: str) -> int:
        return derive_seed(self._experiment.run.seed, problem_id, _NAME)
