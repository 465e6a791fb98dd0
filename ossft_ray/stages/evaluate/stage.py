"""`ossft evaluate`: avg@k, pass@k and maj@k of several models on benchmarks, every response stored with its verdict.

A problem's samples are drawn with the same seeds for every model, so that differences are paired. What another run has
drawn from the same model for the same problems is taken from there (`sample_cache.py`).
"""

from pathlib import Path
from typing import Any

from ossft_ray.common.errors import InputError
from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Experiment
from ossft_ray.data.benchmarks import read_benchmark
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.rollout_pool import run_workers
from ossft_ray.distributed.session import check_output, start_ray
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.location import model_digest, model_path
from ossft_ray.run_folder.names import (
    ACCURACIES,
    BASE,
    BENCHMARKS,
    COSTS,
    DIFFERENCES,
    EVALUATE,
    MANIFEST,
    MODEL,
    PARTS,
    SIZES,
    TRAIN,
)
from ossft_ray.run_folder.provenance import pin_revision, write_config
from ossft_ray.run_folder.sessions import Session, session_phases, session_total
from ossft_ray.run_folder.stage_folder import begin_stage, fingerprint
from ossft_ray.stages.evaluate.accuracies import Scores, compare_models, folder_name, score_model
from ossft_ray.stages.evaluate.sample_cache import cache_folder, entry_inputs, find, keep
from ossft_ray.stages.evaluate.worker import PART_PROBLEMS, EvaluateWorker, part_file, plain_prompt, split_part
from ossft_ray.verification.fingerprint import verify_inputs

_NOT_OF_SAMPLES = {"benchmarks", "data_dir", "models", "template", "cache"}  # keys that do not change a model's samples


@replanned
def evaluate(
    experiment: Experiment, on_progress: OnProgress | None = None, start_over: bool = False, verbose: bool = False
) -> Scores:
    """Score the base model, the trained one where `train/` is complete, and `[evaluate] models`.

    Returns what `scores.json` holds; `differences.json` compares each model with the base model.
    `on_progress` gets running totals: `total`, `done_before`, and of this session `problems`, `correct`, `samples`,
    `generated_tokens`, with the `model` at work; and a `note` now and then. `start_over` takes nothing from the cache.

    Raises:
        InputError: a benchmark or the policy cannot be used, or the folder holds rows of other settings.
        JobError: a worker failed; the same command goes on.
    """
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    experiment = pin_revision(experiment)
    benchmarks = {
        name: read_benchmark(name, experiment.evaluate, experiment.verify.kind)
        for name in experiment.evaluate.benchmarks
    }
    if not benchmarks:
        raise InputError("[evaluate] benchmarks is empty; name at least one")
    folder = Folder.at(experiment.run.output) / EVALUATE
    scores: Scores = {}
    found = models(experiment)
    found |= {name: pin_revision(each) for name, each in other_models(experiment).items()}
    for with_policy in found.values():
        load_chat(with_policy.policy)  # none is sampled before all are known to be usable
    for model, with_policy in found.items():
        _sample_model(with_policy, model, benchmarks, folder / model, on_progress, start_over, verbose)
        scores[model] = score_model(folder / model, list(benchmarks))
    others = [model for model in scores if model != "base"]
    differences = {model: compare_models(folder / BASE, folder / model, list(benchmarks)) for model in others}
    folder.write_json(COSTS, costs(folder, list(found)))
    folder.write_json(ACCURACIES, scores)
    folder.write_json(DIFFERENCES, differences)
    write_config(experiment)
    return scores


def models(experiment: Experiment) -> dict[str, Experiment]:
    """The models to score, each as an experiment whose `[policy]` it is: `base`, `trained` if there is one, others."""
    found = {"base": experiment}
    train = Folder.at(experiment.run.output) / TRAIN
    if train.exists(MANIFEST):
        trained = experiment.policy.model_copy(
            # an adapter that the policy sampled with is merged into what was trained from it
            update={
                "model": absolute(join(experiment.run.output, TRAIN, MODEL)),
                "revision": None,
                "chat_template": None,
                "lora": None,
            }
        )
        found["trained"] = experiment.model_copy(update={"policy": trained})
    return found | other_models(experiment)


def other_models(experiment: Experiment) -> dict[str, Experiment]:
    """Those of `[evaluate] models`. All else of `[policy]`, a chat template too, is as for the base model."""
    return {
        name: experiment.model_copy(
            update={
                "policy": experiment.policy.model_copy(update={"model": model, "revision": None, "lora": None}),
            }
        )
        for name, model in experiment.evaluate.models.items()
    }


def costs(folder: Folder, models: list[str]) -> dict[str, float]:
    """Seconds of all models' sampling, loading included, and the tokens they drew; what a cache gave cost nothing."""
    return {
        "seconds": sum(session_phases(folder / model)[0].get(EVALUATE, 0.0) for model in models),
        "generated_tokens": sum(session_total(folder / model, "generated_tokens") for model in models),
    }


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
    chat = load_chat(experiment.policy)
    inputs = _inputs(experiment)
    begin_stage(folder, inputs, start_over)
    digests = _add_benchmarks(folder, benchmarks)
    report = on_progress or (lambda totals: None)
    parts = {
        name: [f"{name}#{number}" for number in range(_num_parts(problems))] for name, problems in benchmarks.items()
    }

    def missing_of(name: str) -> list[str]:
        return [part for part in parts[name] if not _is_done(folder, part)]

    def say(note: str) -> None:
        report({"model": model, "note": f"{model}: {note}"})

    if not any(map(missing_of, benchmarks)):
        report(ALREADY_COMPLETE | {"model": model})
        return
    cache = cache_folder(experiment.evaluate.cache)
    is_hub_model = not Path(model_path(experiment.policy.model)).is_dir()
    entries = {name: entry_inputs(inputs, name, digests[name], chat, is_hub_model) for name in benchmarks}
    num_samples = experiment.evaluate.num_samples
    for name, entry in entries.items():
        wanted = missing_of(name)
        if cache is None or entry is None or start_over or not wanted:
            continue
        if (table := find(cache, entry, benchmarks[name], num_samples, say)) is not None:
            for part in wanted:
                number, size = split_part(part)[1], PART_PROBLEMS * num_samples
                (folder / folder_name(name)).write_table(part_file(number), table.slice(number * size, size))
            say(f"{len(benchmarks[name])} problems of {name} come from the cache, {cache.path}")
    missing = [part for name in benchmarks for part in missing_of(name)]
    if missing:
        _draw(experiment, model, benchmarks, folder, missing, sum(map(len, parts.values())), report, verbose)
    drawn = {split_part(part)[0] for part in missing}
    for name, entry in entries.items():
        if cache is not None and entry is not None:
            table = (folder / folder_name(name)).read_tables(PARTS, SAMPLE_SCHEMA)
            keep(cache, entry, table, say, replace=name in drawn)


def _draw(
    experiment: Experiment,
    model: str,
    benchmarks: dict[str, list[Problem]],
    folder: Folder,
    missing: list[str],
    num_parts: int,
    report: OnProgress,
    verbose: bool,
) -> None:
    """Let the model's policies work on the missing parts."""
    counts = {
        "model": model,
        "total": sum(map(len, benchmarks.values())),
        "done_before": PART_PROBLEMS * (num_parts - len(missing)),
    }
    start_ray(experiment, verbose)
    session = Session(folder)
    totals = run_workers(
        EvaluateWorker,
        experiment,
        missing,
        PART_PROBLEMS * len(missing),
        f"{EVALUATE}-{model}",
        lambda totals: report(counts | totals),
        verbose,
        benchmarks=benchmarks,
        folder=folder,
    )
    session.end_phase(EVALUATE, totals)
    session.close()


def _num_parts(problems: list[Problem]) -> int:
    return -(-len(problems) // PART_PROBLEMS)


def _is_done(folder: Folder, part: str) -> bool:
    benchmark, number = split_part(part)
    return (folder / folder_name(benchmark)).exists(part_file(number))


def _add_benchmarks(folder: Folder, benchmarks: dict[str, list[Problem]]) -> dict[str, str]:
    """Note which problems stand behind each benchmark's name; more benchmarks may come later, changed ones may not.

    Returns a digest of each benchmark's problems.

    Raises:
        InputError: a benchmark was sampled before with other problems.
    """
    digests = {name: fingerprint({"problems": [vars(p) for p in rows]}) for name, rows in benchmarks.items()}
    known = folder.read_json(BENCHMARKS) if folder.exists(BENCHMARKS) else {}
    changed = [name for name, digest in digests.items() if known.get(name, digest) != digest]
    if changed:
        raise InputError(f"{folder.path}: the problems of {changed[0]} have changed; pass --start-over to sample anew")
    folder.write_json(BENCHMARKS, known | digests)
    sizes = folder.read_json(SIZES) if folder.exists(SIZES) else {}
    for name, problems in benchmarks.items():
        sizes[folder_name(name)] = {"problems": len(problems), "parts": _num_parts(problems)}
    folder.write_json(SIZES, sizes)
    return digests


def _inputs(experiment: Experiment) -> dict[str, Any]:
    """What the samples depend on, besides the benchmarks' problems."""
    prompts = plain_prompt(experiment)
    return {
        "run": {"seed": experiment.run.seed},
        "policy": experiment.policy.model_dump(mode="json", exclude={"model", "trust_remote_code"}),
        "policy_files": model_digest(experiment.policy),
        "prompts": {"system": prompts.system, "solve": prompts.solve},
        "evaluate": experiment.evaluate.model_dump(mode="json", exclude=_NOT_OF_SAMPLES),
        "verify": verify_inputs(experiment.verify),
    }
