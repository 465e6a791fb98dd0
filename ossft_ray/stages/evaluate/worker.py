"""A policy at evaluation: one part of a benchmark's problems in, its samples with their verdicts out."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from ossft_ray.common.prompt_templates import TEMPLATES, PromptTemplate
from ossft_ray.common.schema import SAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem, PromptTooLong
from ossft_ray.config import Experiment
from ossft_ray.distributed.rollout_worker import RolloutWorker
from ossft_ray.engines.vllm_policy import Sampling
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


class EvaluateWorker(RolloutWorker):
    """Turns parts of a benchmark's problems into parts of SAMPLE rows."""

    def __init__(self, benchmarks: Benchmarks, folder: Folder, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.benchmarks, self.folder = benchmarks, folder

    async def process(self, part: str) -> None:
        benchmark, number = split_part(part)
        problems = self.benchmarks[benchmark][number * PART_PROBLEMS : (number + 1) * PART_PROBLEMS]
        progress = self.progress[part] = Counter()
        by_problem = await asyncio.gather(*(self.answer(benchmark, problem, progress) for problem in problems))
        rows = [row for rows in by_problem for row in rows]
        folder, table = self.folder / folder_name(benchmark), to_table(rows, SAMPLE_SCHEMA)
        await asyncio.to_thread(folder.write_table, part_name(number), table)  # other parts are being worked on

    async def answer(self, benchmark: str, problem: Problem, progress: Counter[str]) -> list[dict[str, Any]]:
        """All samples of one problem."""
        async with self.problem_slot():
            num_samples = self.experiment.evaluate.num_samples
            rows = await asyncio.gather(*(self.draw(benchmark, problem, index) for index in range(num_samples)))
            verdicts = [Verdict(row["correct"], row["reason"], row.get("extracted")) for row in rows]
            votes = await share_votes(verdicts, partial(self.compare_answers, problem))
            rows = [row | {"vote": vote} for row, vote in zip(rows, votes, strict=True)]
            progress.update(problems=1, samples=len(rows), correct=sum(row["correct"] for row in rows))
            self.metrics.count("ossft_problems", origin="")
        return rows

    async def draw(self, benchmark: str, problem: Problem, index: int) -> dict[str, Any]:
        """One response with its verdict. A problem whose prompt does not fit the context counts as answered wrongly."""
        settings, template = self.experiment.evaluate, solve_template(self.experiment)
        prompt = solve_prompt(problem.question, template.system, template.solve)
        sampling = Sampling.of(settings)
        seed = derive_seed(self.experiment.run.seed, EVALUATE, benchmark, problem.problem_id, index)
        row = {"problem_id": problem.problem_id, "question": problem.question, "answer": problem.answer, "index": index}
        try:
            response = await self.sample(prompt, sampling, seed, f"{benchmark}/{problem.problem_id}/{index}")
        except PromptTooLong:
            return row | {"correct": False, "num_tokens": 0, "reason": "prompt_too_long"}
        # A truncated response may still hold an answer in its box: it is graded, as the field's harnesses do.
        verdict = await self.verify(problem, response.text)
        return row | {
            "response": response.text,
            "finish_reason": response.finish_reason,
            "num_tokens": len(response.token_ids),
            "correct": verdict.correct,
            "reason": verdict.reason,
            "extracted": verdict.extracted,
        }
