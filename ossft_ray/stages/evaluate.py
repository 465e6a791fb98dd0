"""`ossft evaluate`: avg@k, pass@k and maj@k of the base and the trained model on benchmarks, every response stored.

A problem's samples are drawn with the same seeds for every model, so that differences are paired.
"""

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import Any

from ossft_ray.config import Experiment
from ossft_ray.data.problems import read_benchmark
from ossft_ray.engines.chat import load_chat, model_digest
from ossft_ray.engines.vllm_policy import Sampling, check_engine_settings
from ossft_ray.errors import InputError
from ossft_ray.method.metrics import Score, score
from ossft_ray.method.prompts import solve_prompt
from ossft_ray.method.rewriting import Problem, PromptTooLong, derive_seed
from ossft_ray.provenance import write_config
from ossft_ray.schema import SAMPLE, to_table
from ossft_ray.stages.cluster import check_output, start_ray
from ossft_ray.stages.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.stages.rollout import RolloutWorker, run_workers
from ossft_ray.storage import MANIFEST, Folder, begin_stage, fingerprint
from ossft_ray.verification.inputs import verify_inputs

NAME = "evaluate"
SCORES = "scores.json"
BENCHMARKS = "benchmarks.json"  # in a model's folder: what its samples were drawn for
PART_PROBLEMS = 8
Scores = dict[str, dict[str, dict[str, Any]]]


def evaluate(
    experiment: Experiment, on_progress: OnProgress | None = None, start_over: bool = False, verbose: bool = False
) -> Scores:
    """Score the base model and, where `train/` is complete, the trained one; returns what `scores.json` holds.

    `on_progress` gets running totals: `total`, `done_before`, and of this session `problems`, `correct`, `samples`,
    `generated_tokens`, with the `model` at work.

    Raises:
        InputError: a benchmark or the policy cannot be used, or the folder holds rows of other settings.
        JobError: a worker failed; the same command goes on.
    """
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    benchmarks = {
        name: read_benchmark(name, experiment.evaluate, experiment.verify.kind)
        for name in experiment.evaluate.benchmarks
    }
    if not benchmarks:
        raise InputError("[evaluate] benchmarks is empty; name at least one")
    folder = Folder.at(experiment.run.output) / NAME
    scores: Scores = {}
    for model, with_policy in models(experiment).items():
        _sample_model(with_policy, model, benchmarks, folder / model, on_progress, start_over, verbose)
        scores[model] = {folder_name(name): _as_json(read_score(folder / model, name)) for name in benchmarks}
    folder.write_json(SCORES, scores)
    write_config(experiment)
    return scores


def models(experiment: Experiment) -> dict[str, Experiment]:
    """The models to score, each as an experiment whose `[policy]` it is: `base`, and `trained` once there is one."""
    found = {"base": experiment}
    train = Folder.at(experiment.run.output) / "train"
    if train.exists(MANIFEST):
        trained = experiment.policy.model_copy(
            # an adapter that the policy sampled with is merged into what was trained from it
            update={"model": (train / "model").path, "revision": None, "chat_template": None, "lora": None}
        )
        found["trained"] = experiment.model_copy(update={"policy": trained})
    return found


def folder_name(benchmark: str) -> str:
    """A benchmark's name as a folder and in `scores.json`: `/` as `-`."""
    return benchmark.strip("/").replace("/", "-")


def read_score(model_folder: Folder, benchmark: str) -> Score:
    """The score of one model on one benchmark, from its stored samples."""
    by_problem = read_samples(model_folder, benchmark)
    return score(
        [[row["correct"] for row in rows] for rows in by_problem.values()],
        [[row["extracted"] for row in rows] for rows in by_problem.values()],
    )


def read_samples(model_folder: Folder, benchmark: str) -> dict[str, list[dict[str, Any]]]:
    """SAMPLE rows by problem id, in the order of the benchmark."""
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for row in (model_folder / folder_name(benchmark)).read_tables("part-*.parquet", SAMPLE).to_pylist():
        by_problem.setdefault(row["problem_id"], []).append(row)
    return by_problem


class EvaluateWorker(RolloutWorker):
    """Turns parts of a benchmark's problems into parts of SAMPLE rows. A part is named BENCHMARK#NUMBER."""

    def __init__(self, *arguments: Any, benchmarks: dict[str, list[Problem]], folder: Folder, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.benchmarks, self.folder = benchmarks, folder

    async def process(self, part: str) -> None:
        benchmark, number = split_part(part)
        problems = self.benchmarks[benchmark][number * PART_PROBLEMS : (number + 1) * PART_PROBLEMS]
        progress = self.progress[part] = Counter()
        by_problem = await asyncio.gather(*(self.answer(benchmark, problem, progress) for problem in problems))
        rows = [row for rows in by_problem for row in rows]
        (self.folder / folder_name(benchmark)).write_table(part_file(number), to_table(rows, SAMPLE))

    async def answer(self, benchmark: str, problem: Problem, progress: Counter[str]) -> list[dict[str, Any]]:
        """All samples of one problem."""
        async with self.a_place_in_flight():
            num_samples = self.experiment.evaluate.num_samples
            rows = await asyncio.gather(*(self.draw(benchmark, problem, index) for index in range(num_samples)))
            progress.update(problems=1, samples=len(rows), correct=sum(row["correct"] for row in rows))
        return rows

    async def draw(self, benchmark: str, problem: Problem, index: int) -> dict[str, Any]:
        """One response with its verdict; a problem that does not fit the context is answered wrongly, with a reason."""
        settings, prompts = self.experiment.evaluate, self.experiment.prompts
        prompt = solve_prompt(problem.question, prompts.system, prompts.solve)
        sampling = Sampling(settings.temperature, settings.top_p, settings.max_tokens)
        seed = derive_seed(self.experiment.run.seed, NAME, benchmark, problem.problem_id, index)
        row = {
            "problem_id": problem.problem_id,
            "question": problem.question,
            "answer": problem.answer,
            "index": index,
            "correct": False,
            "num_tokens": 0,
        }
        try:
            response = await self.sample(prompt, sampling, seed, f"{benchmark}/{problem.problem_id}/{index}")
        except PromptTooLong:
            return row | {"reason": "prompt_too_long"}
        row |= {
            "response": response.text,
            "finish_reason": response.finish_reason,
            "num_tokens": len(response.token_ids),
        }
        # A truncated response may still hold an answer in its box: it is graded, as the field's harnesses do.
        verdict = await self.verify(problem, response.text)
        return row | {"correct": verdict.correct, "reason": verdict.reason, "extracted": verdict.extracted}


def split_part(part: str) -> tuple[str, int]:
    benchmark, _, number = part.rpartition("#")
    return benchmark, int(number)


def part_file(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _sample_model(
    experiment: Experiment,
    model: str,
    benchmarks: dict[str, list[Problem]],
    folder: Folder,
    on_progress: OnProgress | None,
    start_over: bool,
    verbose: bool,
) -> None:
    """Draw and grade what is still missing of one model's samples."""
    load_chat(experiment.policy)
    begin_stage(folder, _inputs(experiment), start_over)
    _add_benchmarks(folder, benchmarks)
    report = on_progress or (lambda totals: None)
    parts = [
        f"{name}#{number}"
        for name, problems in benchmarks.items()
        for number in range(-(-len(problems) // PART_PROBLEMS))
    ]
    missing = [part for part in parts if not _is_done(folder, part)]
    if not missing:
        report(ALREADY_COMPLETE | {"model": model})
        return
    counts = {
        "model": model,
        "total": sum(map(len, benchmarks.values())),
        "done_before": PART_PROBLEMS * (len(parts) - len(missing)),
    }
    start_ray(experiment, verbose)
    run_workers(
        EvaluateWorker,
        experiment,
        missing,
        PART_PROBLEMS * len(missing),
        f"{NAME}-{model}",
        lambda totals: report(counts | totals),
        verbose,
        benchmarks=benchmarks,
        folder=folder,
    )


def _is_done(folder: Folder, part: str) -> bool:
    benchmark, number = split_part(part)
    return (folder / folder_name(benchmark)).exists(part_file(number))


def _add_benchmarks(folder: Folder, benchmarks: dict[str, list[Problem]]) -> None:
    """Note which problems stand behind each benchmark's name; more benchmarks may come later, changed ones may not.

    Raises:
        InputError: a benchmark was sampled before with other problems.
    """
    digests = {name: fingerprint({"problems": [vars(p) for p in rows]}) for name, rows in benchmarks.items()}
    known = folder.read_json(BENCHMARKS) if folder.exists(BENCHMARKS) else {}
    changed = [name for name, digest in digests.items() if known.get(name, digest) != digest]
    if changed:
        raise InputError(f"{folder.path}: the problems of {changed[0]} have changed; pass --start-over to sample anew")
    folder.write_json(BENCHMARKS, known | digests)


def _inputs(experiment: Experiment) -> dict[str, Any]:
    """What the samples depend on, besides the benchmarks' problems."""
    return {
        "run": {"seed": experiment.run.seed},
        "policy": experiment.policy.model_dump(mode="json", exclude={"model"}),
        "policy_files": model_digest(experiment.policy),
        "prompts": experiment.prompts.model_dump(mode="json", exclude={"guided"}),
        "evaluate": experiment.evaluate.model_dump(mode="json", exclude={"benchmarks", "data_dir"}),
        "verify": verify_inputs(experiment.verify),
    }


def _as_json(score: Score) -> dict[str, Any]:
    values = asdict(score)
    return {"avg": values.pop("avg"), "stderr": values.pop("stderr"), "pass": values.pop("pass_at"), **values}
