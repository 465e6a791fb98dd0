"""`ossft rewrite`: make the data on-policy. Problems in, EXAMPLE rows out (arXiv 2509.15157, Section 3).

The driver reads the input once, sets unusable rows aside, and lays the problems out in parts. Workers turn each
part of problems into a part of examples. A part is written whole or not at all, so a run that was killed goes on
with the parts that are missing.
"""

import asyncio
import json
import time
from collections import Counter
from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.engines.chat import load_chat, model_digest
from ossft_ray.engines.vllm_policy import Sampling, check_engine_settings
from ossft_ray.method.prompts import Message, solve_prompt
from ossft_ray.method.rewriting import Attempt, Problem, Response, Rewritten, Stage, derive_seed, rewrite_problem
from ossft_ray.provenance import write_config
from ossft_ray.records import find_files
from ossft_ray.schema import EXAMPLE, to_table
from ossft_ray.stages.cluster import check_output, start_ray
from ossft_ray.stages.intake import PART_PROBLEMS, PARTS, PROBLEMS, lay_out_problems
from ossft_ray.stages.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.stages.rollout import RolloutWorker, run_workers
from ossft_ray.storage import Folder, begin_stage, digest_files, finish_stage

NAME = "rewrite"
_TOKEN_COUNTS = b"ossft_token_counts"


def rewrite(
    experiment: Experiment, on_progress: OnProgress | None = None, start_over: bool = False, verbose: bool = False
) -> dict[str, Any]:
    """Rewrite all problems of `[data]` and return the manifest; a complete stage is left as it is.

    `on_progress` gets running totals: `total`, `done_before`, and of this session `problems`, `self`, `guided`,
    `expert`, `dropped`, `generated_tokens`.

    Raises:
        InputError: the data, the policy or the settings cannot be used, or the folder holds rows of other settings.
        JobError: a worker failed; the same command goes on.
    """
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    chat = load_chat(experiment.policy)
    inputs = rewrite_inputs(experiment)
    folder = Folder.at(experiment.run.output) / NAME
    report = on_progress or (lambda totals: None)
    if (manifest := begin_stage(folder, inputs, start_over)) is not None:
        report(ALREADY_COMPLETE)
        return manifest
    laid_out = lay_out_problems(experiment, chat, folder)
    write_config(experiment)

    finished = set(folder.names(PARTS))
    missing = [part for part in (folder / PROBLEMS).names(PARTS) if part not in finished]
    counts = {"total": laid_out["problems"], "done_before": PART_PROBLEMS * len(finished)}
    start_ray(experiment, verbose)
    run_workers(RewriteWorker, experiment, missing, NAME, lambda totals: report(counts | totals), verbose)
    manifest = finish_stage(folder, inputs, summarise(folder, laid_out))
    write_config(experiment)
    return manifest


class RewriteWorker(RolloutWorker):
    """Turns parts of problems into parts of examples."""

    async def process(self, part: str) -> None:
        folder = Folder.at(self.experiment.run.output) / NAME
        problems = [Problem(**row) for row in (folder / PROBLEMS).read_table(part).to_pylist()]
        counts: Counter[str] = Counter(started=int(time.time()))
        rows = await asyncio.gather(*(self.rewrite(problem, counts) for problem in problems))
        counts["ended"] = int(time.time())
        table = to_table([row for row in rows if row is not None], EXAMPLE)
        folder.write_table(part, table.replace_schema_metadata({_TOKEN_COUNTS: json.dumps(counts)}))

    async def rewrite(self, problem: Problem, counts: Counter[str]) -> dict[str, Any] | None:
        """One problem's EXAMPLE row, or None where it is dropped; adds to the part's `counts`."""
        settings, prompts, seed = self.experiment.rewrite, self.experiment.prompts, self.experiment.run.seed

        async def sample(stage: Stage, prompt: list[Message], index: int) -> Response:
            stage_settings = settings.self_alignment if stage == "self" else settings.guided_alignment
            sampling = Sampling(stage_settings.temperature, stage_settings.top_p, stage_settings.max_tokens)
            request_id = f"{problem.problem_id}/{stage}/{index}"
            draw_seed = derive_seed(seed, problem.problem_id, stage, index)
            response = await self.sample(prompt, sampling, draw_seed, request_id)
            counts.update(prompt_tokens=response.num_prompt_tokens, generated_tokens=len(response.token_ids))
            return response

        rewritten = await rewrite_problem(problem, sample, self.verify, settings, prompts)
        origin = rewritten.origin or "dropped"
        counts.update({origin: 1, "attempts": len(rewritten.attempts)})
        self.tally.add.remote({"problems": 1, origin: 1})
        return self.example(problem, rewritten)

    def example(self, problem: Problem, rewritten: Rewritten) -> dict[str, Any] | None:
        """The EXAMPLE row: always with the plain prompt, whoever wrote the response and with whatever help."""
        if rewritten.origin is None:
            return None
        prompts = self.experiment.prompts
        if rewritten.kept is not None:
            response, token_ids = rewritten.kept.response.text, rewritten.kept.response.token_ids
        else:
            response = str(problem.expert_solution)
            token_ids = self.chat.encode_response(response)
        return {
            **vars(problem),
            "prompt": solve_prompt(problem.question, prompts.system, prompts.solve),
            "completion": [{"role": "assistant", "content": response}],
            "response": response,
            "response_token_ids": token_ids,
            "origin": rewritten.origin,
            "num_attempts": len(rewritten.attempts),
            "num_correct": sum(attempt.correct for attempt in rewritten.attempts),
            "attempts": [self.attempt(attempt) for attempt in rewritten.attempts],
            "policy": self.experiment.policy.model,
        }

    def attempt(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "stage": attempt.stage,
            "index": attempt.index,
            "correct": attempt.correct,
            "reason": attempt.reason,
            "finish_reason": attempt.response.finish_reason,
            "num_tokens": len(attempt.response.token_ids),
            "response": attempt.response.text if self.experiment.rewrite.keep_attempts else None,
        }


def rewrite_inputs(experiment: Experiment) -> dict[str, Any]:
    """What the rows depend on: the keys of the stage's fingerprint."""
    files = [Folder.of_file(path) for path in find_files(experiment.data.path)]
    return {
        "run": {"seed": experiment.run.seed},
        "policy": experiment.policy.model_dump(mode="json"),
        "policy_files": model_digest(experiment.policy),
        "data": experiment.data.model_dump(mode="json", exclude={"path"}),
        "data_files": [digest_files(folder, [name]) for folder, name in files],
        "prompts": experiment.prompts.model_dump(mode="json"),
        "rewrite": experiment.rewrite.model_dump(mode="json"),
        "verify": experiment.verify.model_dump(mode="json", exclude={"num_workers"}),
    }


def summarise(folder: Folder, laid_out: dict[str, int]) -> dict[str, Any]:
    """The manifest's figures, from the parts themselves: they count kept work only, whatever was interrupted."""
    totals: Counter[str] = Counter()
    intervals = []
    for part in folder.names(PARTS):
        counts = json.loads(folder.read_metadata(part)[_TOKEN_COUNTS])
        intervals.append((counts.pop("started"), counts.pop("ended")))
        totals.update(counts)
    return {
        "problems": laid_out["problems"],
        "rejected": laid_out["rejected"],
        "origins": {origin: totals[origin] for origin in ("self", "guided", "expert")},
        "dropped": totals["dropped"],
        "attempts": totals["attempts"],
        "generated_tokens": totals["generated_tokens"],
        "prompt_tokens": totals["prompt_tokens"],
        "seconds": _covered_seconds(intervals),
    }


def _covered_seconds(intervals: list[tuple[int, int]]) -> int:
    """Length of the union of intervals: the time during which any part was under way, pauses left out."""
    covered, end = 0, 0
    for start, stop in sorted(intervals):
        covered += max(0, stop - max(start, end))
        end = max(end, stop)
    return covered
