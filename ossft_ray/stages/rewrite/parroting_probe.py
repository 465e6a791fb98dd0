"""The parroting probe: on a seeded sample of problems the policy is shown a guide whose answer is wrong.

Its response is graded against the true answer and against the wrong one; none of it is kept as an example. The sample
of problems and the sampling seeds derive from the run's seed and the problem ids, so workers agree without talking to
each other, and a part that is processed again gives the same result.
"""

import dataclasses
import heapq
import random
from collections.abc import Awaitable, Callable
from functools import cached_property

from ossft_ray.common.prompt_templates import Message
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, PromptTooLong, Response
from ossft_ray.config import Experiment
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.acceptance import Verify, is_finished
from ossft_ray.method.parroting import Outcome, corrupt
from ossft_ray.method.rewriting import derive_seed, stage_prompt
from ossft_ray.run_folder.names import PARTS, PROBLEMS

_NAME = "parroting"
SampleRequest = Callable[[list[Message], Sampling, int, str], Awaitable[Response]]
"""(prompt, sampling, seed, request id) -> a response."""


class ParrotingProbe:
    """One worker's part in the probe."""

    def __init__(self, folder: Folder, experiment: Experiment, sample: SampleRequest, verify: Verify) -> None:
        self._folder, self._experiment, self._sample, self._verify = folder, experiment, sample, verify

    async def outcome(self, problem: Problem) -> Outcome | None:
        """What a response to the corrupted guide did; None for a problem outside the sample."""
        experiment = self._experiment
        if not experiment.rewrite.parroting_probe or problem.problem_id not in self._chosen_ids:
            return None
        seed = self._seed(problem.problem_id)
        guide = corrupt(str(problem.expert_solution), problem.answer, random.Random(seed))
        if guide is None:
            return "skipped"
        guided = experiment.rewrite.guided_alignment
        sampling = Sampling(guided.temperature, guided.top_p, guided.max_tokens, experiment.rewrite.max_repeats)
        misled = dataclasses.replace(problem, expert_solution=guide.solution)
        prompt = stage_prompt("guided", misled, experiment.rewrite, experiment.prompts)
        try:
            response = await self._sample(prompt, sampling, seed, f"{problem.problem_id}/{_NAME}")
        except PromptTooLong:
            return "skipped"
        if not is_finished(response):
            return "other"
        wrong = dataclasses.replace(problem, answer=guide.wrong_answer)
        says_true, says_wrong = [(await self._verify(one, response.text)).correct for one in (problem, wrong)]
        return "correct" if says_true else "followed" if says_wrong else "other"

    @cached_property
    def _chosen_ids(self) -> set[str]:
        """Ids of the problems to probe, chosen from those with an answer and an expert solution."""
        folder = self._folder / PROBLEMS
        ids = [
            row["problem_id"]
            for part in folder.names(PARTS)
            for row in folder.read_table(part).to_pylist()
            if row["answer"] and row["expert_solution"]
        ]
        return set(heapq.nsmallest(self._experiment.rewrite.parroting_probe, ids, key=self._seed))

    def _seed(self, problem_id: str) -> int:
        return derive_seed(self._experiment.run.seed, problem_id, _NAME)
