"""The evaluation worker: a part of a benchmark's problems in, samples with their verdicts out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

from ossft_ray.common.errors import JobError
from ossft_ray.common.prompt_templates import TEMPLATES, PromptTemplate
from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, PromptTooLong
from ossft_ray.config import Experiment
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.method.acceptance import compare_answers
from ossft_ray.method.metrics import share_votes
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.method.rewriting import derive_seed
from ossft_ray.run_folder.names import EVALUATE, part_name
from ossft_ray.stages.evaluate.benchmark_parts import PART_PROBLEMS, Benchmarks, folder_name, split_part
from ossft_ray.verification import Verdict


def solve_template(experiment: Experiment) -> PromptTemplate:
    """The template of the prompts: `[evaluate] template` if it is set, else `[prompts]`."""
    if experiment.evaluate.template is not None:
        return TEMPLATES[experiment.evaluate.template]
    prompts = experiment.prompts
    return PromptTemplate(prompts.system, prompts.solve, prompts.guided)


class EvaluatedModel(NamedTuple):
    """A model to sample: the experiment whose `[policy]` it is, and the folder of its samples."""

    experiment: Experiment
    folder: Folder


class EvaluateWorker(RolloutWorker):
    """Turns parts of a benchmark's problems into parts of SAMPLE rows, for one or more models of the same shape.

    A part is named MODEL:BENCHMARK#NUMBER. The engine loads another model's weights only when
    no part of the current one is in progress. The counts of progress are named MODEL/COUNT.
    """

    def __init__(self, benchmarks: Benchmarks, models: dict[str, EvaluatedModel], **keywords: Any) -> None:
        super().__init__(**keywords)
        self.benchmarks, self.models = benchmarks, models
        self._model, self._num_parts = next(iter(models)), 0  # whose turn it is, and its parts in progress
        self._turn_may_end = asyncio.Condition()

    async def process(self, part: str) -> None:
        model, _, of_benchmark = part.partition(":")
        try:
            async with self._turn(model):
                await self._sample_part(part, model, *split_part(of_benchmark))
        except JobError as error:
            raise JobError(f"the model {model} ({self.models[model].experiment.policy.model}): {error}") from error

    @asynccontextmanager
    async def _turn(self, model: str) -> AsyncIterator[None]:
        async with self._turn_may_end:
            await self._turn_may_end.wait_for(lambda: self._model == model or not self._num_parts)
            if self._model != model:
                await self.switch_policy(self.models[model].experiment)
                self._model = model
            self._num_parts += 1
        try:
            yield
        finally:
            async with self._turn_may_end:
                self._num_parts -= 1
                self._turn_may_end.notify_all()

    async def _sample_part(self, part: str, model: str, benchmark: str, number: int) -> None:
        problems = self.benchmarks[benchmark][number * PART_PROBLEMS : (number + 1) * PART_PROBLEMS]
        progress = self.progress[part] = Counter()
        by_problem = await asyncio.gather(*(self.answer(model, benchmark, problem, progress) for problem in problems))
        rows = [row for rows in by_problem for row in rows]
        folder, table = self.models[model].folder / folder_name(benchmark), to_table(rows, SAMPLE_SCHEMA)
        await asyncio.to_thread(folder.write_table, part_name(number), table)  # other parts are being worked on

    async def answer(
        self, model: str, benchmark: str, problem: Problem, progress: Counter[str]
    ) -> list[dict[str, Any]]:
        """All samples of one problem."""
        async with self.problem_slot():
            num_samples = self.experiment.evaluate.num_samples
            rows = await asyncio.gather(*(self.draw(model, benchmark, problem, index) for index in range(num_samples)))
            verdicts = [Verdict(row["correct"], row["reason"], row.get("extracted")) for row in rows]
            votes = await share_votes(verdicts, partial(compare_answers, self.verify, problem))
            rows = [row | {"vote": vote} for row, vote in zip(rows, votes, strict=True)]
            sums = {"correct": sum(row["correct"] for row in rows), "generated_tokens": sum(map(_num_tokens, rows))}
            counts = {"problems": 1, "samples": len(rows), **sums}
            progress.update({f"{model}/{name}": count for name, count in counts.items()})
            self.metrics.count("ossft_problems", origin="")
        return rows

    async def draw(self, model: str, benchmark: str, problem: Problem, index: int) -> dict[str, Any]:
        """One response with its verdict. A problem whose prompt does not fit the context counts as answered wrongly."""
        settings, template = self.experiment.evaluate, solve_template(self.experiment)
        prompt = solve_prompt(problem.question, template.system, template.solve, problem.conversation)
        sampling = Sampling.of(settings)
        seed = derive_seed(self.experiment.run.seed, EVALUATE, benchmark, problem.problem_id, index)
        row = {"problem_id": problem.problem_id, "question": problem.question, "answer": problem.answer, "index": index}
        try:
            response = await self.sample(prompt, sampling, seed, f"{model}/{benchmark}/{problem.problem_id}/{index}")
        except PromptTooLong:
            return row | {"correct": False, "num_tokens": 0, "reason": "prompt_too_long"}
        # A truncated response may still hold a boxed answer, so it is graded, as in the field's harnesses.
        verdict = await self.verify(problem, response.text)
        return row | {
            "response": response.text,
            "finish_reason": response.finish_reason,
            "num_tokens": len(response.token_ids),
            "correct": verdict.correct,
            "reason": verdict.reason,
            "extracted": verdict.extracted,
        }


def _num_tokens(row: dict[str, Any]) -> int:
    return int(row["num_tokens"])
