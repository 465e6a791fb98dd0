"""`ossft check --probe N`: what will the run cost? N problems are rewritten, scored and trained on for three steps.

The sample is drawn by the run's seed from all usable problems, and is treated with the experiment's own settings, so
its draws are those that the run will make for these problems. Training gets whole global batches: where the sample is
smaller, its examples come several times. What was measured is kept in `probe/` of the run's folder, and serves until
the experiment, its files or the cluster's GPUs change.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray
from pyarrow import fs
from pydantic import TypeAdapter

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.schema import EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.config import Columns, Experiment
from ossft_ray.data.problems import source_digests
from ossft_ray.distributed.nodes import alive_nodes
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress
from ossft_ray.distributed.session import plan_resources, start_ray
from ossft_ray.engines.in_flight import MAX_SEQUENCES, problems_in_flight
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.example_tokens import encode_example
from ossft_ray.policy.location import model_digest
from ossft_ray.run_folder.metrics_log import read_metrics
from ossft_ray.run_folder.names import CHECKPOINTS, COMPLETE, MANIFEST, METRICS, MODEL, PARTS, REWRITE, SCORE, TRAIN
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.stages.check.budget import Bytes, Estimate, Measured, Plan, Sampling, Steps, estimate, mean_batch
from ossft_ray.stages.check.probe_worker import PROBED, ProbeWorker
from ossft_ray.stages.check.probed_rows import probed_problems
from ossft_ray.stages.check.stage import Findings
from ossft_ray.stages.check.throughput import Span, fit_step_cost
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.checkpoints import NUM_KEPT
from ossft_ray.stages.train.stage import train

NAME = "probe"
_MEASURED, _PROBLEMS, _BATCHES = "measured.json", "problems.jsonl", "batches"
_FORMAT = 1  # of what is kept in measured.json
_NUM_STEPS = 3  # a warm-up and two that are timed
_MAX_BATCH_ROWS = 4096  # of repeated examples, so that an enormous batch does not make the probe one


def probe(
    experiment: Experiment,
    findings: Findings,
    on_stage: Callable[[str], OnProgress] | None = None,
    verbose: bool = False,
) -> Estimate:
    """Estimate the run of which `findings.sample` is a sample; `on_stage` as in `run`.

    Raises:
        InputError: the experiment cannot run as it is, or trains on another run's rows.
        JobError: a stage failed.
    """
    if experiment.train.examples is not None:
        raise InputError(
            "[train] examples: a probe trains on what it rewrites itself, and this experiment on another run's rows; "
            "leave the key out for the probe"
        )
    folder = Folder.at(experiment.run.output) / NAME
    begin = on_stage or (lambda name: lambda totals: None)
    small = probe_experiment(experiment)
    _write_problems(folder, findings.sample)
    start_ray(small, verbose)
    key = _key(experiment, findings)
    adapter = TypeAdapter(Measured)
    before = folder.read_json(_MEASURED) if folder.exists(_MEASURED) else {}
    if before.get("fingerprint") == key:
        begin(NAME)(ALREADY_COMPLETE)
        measured = adapter.validate_python(before["measured"])
    else:
        measured = _measure(small, findings, folder, begin, verbose)
        folder.write_json(_MEASURED, {"fingerprint": key, "measured": asdict(measured)})
    return estimate(measured, plan_of(experiment, findings))


def free_bytes(experiment: Experiment) -> int | None:
    """What is free where the run will be written; None in an object store."""
    path = Folder.at(experiment.run.output).local_path
    return shutil.disk_usage(path).free if path is not None and path.exists() else None


def probe_experiment(experiment: Experiment) -> Experiment:
    """The experiment on the sample alone, in a folder of its own, with nothing kept apart from training."""
    output = f"{experiment.run.output.rstrip('/')}/{NAME}"
    data = experiment.data.model_copy(
        update={
            "path": f"{output}/{_PROBLEMS}",
            "limit": None,
            "columns": Columns(question="question", expert_solution="expert_solution"),
            # all this was seen to before the sample was drawn
            "bad_golds": "ignore",
            "duplicates": "keep",
            "contamination": "ignore",
        }
    )
    train_settings = experiment.train.model_copy(
        update={
            "holdout": 0.0,
            "keep": "last",
            "epochs": 1,
            "checkpoint_every": 10**9,  # once, at the end
            "stop_after": None,
            "tracking": [],
        }
    )
    return experiment.model_copy(
        update={
            "run": experiment.run.model_copy(update={"output": output}),
            "data": data,
            "rewrite": experiment.rewrite.model_copy(update={"parroting_probe": 0}),
            "train": train_settings,
        }
    )


def plan_of(experiment: Experiment, findings: Findings) -> Plan:
    """The run on the cluster as it is."""
    placement = plan_resources(experiment.resources, experiment.policy.engine)
    num_nodes = len(alive_nodes())
    settings, evaluation = experiment.train, experiment.evaluate
    has_gpus = placement.gpus_per_policy > 0 or placement.gpus_per_train_worker > 0
    num_policies = placement.num_policies
    batch = mean_batch(
        problems_in_flight(experiment),
        findings.tally.problems / num_policies,
        int(experiment.policy.engine.get("max_num_seqs") or MAX_SEQUENCES),
    )
    train_gpus = placement.num_train_workers * placement.gpus_per_train_worker
    return Plan(
        num_policies=num_policies,
        policy_devices=num_policies * placement.gpus_per_policy if has_gpus else num_nodes,
        train_devices=train_gpus if has_gpus else num_nodes,
        in_flight=batch,
        epochs=settings.epochs,
        global_batch_size=settings.global_batch_size,
        train_share=1 - settings.holdout,
        checkpoint_every=settings.checkpoint_every,
        checkpoints_kept=NUM_KEPT,
        evaluated_samples=sum(findings.benchmarks.values()) * evaluation.num_samples,
        evaluated_models=2 + len(evaluation.models),  # base and trained
        rounds=experiment.loop.rounds,
        device="GPU" if has_gpus else "machine",
    )


def _key(experiment: Experiment, findings: Findings) -> str:
    """What a measurement is of."""
    return fingerprint(
        {
            "format": _FORMAT,
            "experiment": experiment.model_dump(mode="json"),
            "sources": source_digests(experiment.data),
            "model": model_digest(experiment.policy),
            "sample": [problem.problem_id for problem in findings.sample],
            "population": findings.tally.problems,
            "gpus": ray.cluster_resources().get("GPU", 0),
        }
    )


def _measure(
    experiment: Experiment,
    findings: Findings,
    folder: Folder,
    begin: Callable[[str], OnProgress],
    verbose: bool,
) -> Measured:
    """Run the stages on the sample; what fills the disk is removed again, the examples stay to be looked at."""
    for name in ("rewrite", "score", _BATCHES, "train", PROBED):
        (folder / name).delete()  # an interrupted probe's times are of no use
    manifest = rewrite(experiment, begin("rewrite"), verbose=verbose, worker=ProbeWorker)
    problems = probed_problems(folder / REWRITE, experiment)
    policies = [(folder / PROBED).read_json(name) for name in (folder / PROBED).names("*.json")]
    score_seconds, startup_seconds, steps, train_memory = 0.0, 0.0, None, 0
    if any(problem.num_examples for problem in problems):
        began = time.monotonic()
        score_seconds = score(experiment, begin("score"), verbose=verbose)["seconds"]
        startup_seconds = time.monotonic() - began - score_seconds
        steps, train_memory = _train(experiment, folder, begin("train"), verbose)
    checkpoints = folder / TRAIN / CHECKPOINTS
    sizes = Bytes(
        examples=_num_bytes(folder / REWRITE, recursive=False),
        scores=_num_bytes(folder / SCORE, recursive=False),
        checkpoint=_num_bytes(checkpoints),
        model=_num_bytes(folder / TRAIN / MODEL),
        policy_memory=max((policy["memory"] for policy in policies), default=0),
        train_memory=train_memory,
    )
    for name in (_BATCHES, "train"):
        (folder / name).delete()
    return Measured(
        population=findings.tally.problems,
        problems=problems,
        intake_seconds=findings.seconds,
        sampling=_sampling(manifest, policies),
        score_startup_seconds=startup_seconds,
        score_seconds=score_seconds,
        steps=steps,
        bytes=sizes,
    )


def _write_problems(folder: Folder, sample: list[Problem]) -> None:
    rows = [{"id": problem.problem_id, **vars(problem)} for problem in sample]
    try:
        folder.write_bytes(_PROBLEMS, "".join(json.dumps(row) + "\n" for row in rows).encode())
    except OSError as error:
        raise InputError(f"[run] output: {brief(error)}; choose one that can be written to") from error


def _sampling(manifest: dict[str, Any], policies: list[dict[str, Any]]) -> Sampling:
    spans = [[Span(*span) for span in policy["spans"]] for policy in policies]
    seconds = manifest["phases"].get("sampling", 0.0)
    return Sampling(
        startup_seconds=manifest["phases"]["rewriting"] - seconds,
        sampling_seconds=seconds,
        num_policies=max(1, len(policies)),
        prompt_tokens=manifest["prompt_tokens"],
        sampled_tokens=sum(span.num_tokens for of_one in spans for span in of_one),
        cost=fit_step_cost(spans),
    )


def _train(experiment: Experiment, folder: Folder, on_progress: OnProgress, verbose: bool) -> tuple[Steps, int]:
    """Three steps of the global batch; returns them and a worker's peak of memory in bytes."""
    batches = folder / _BATCHES
    size = min(experiment.train.global_batch_size, _MAX_BATCH_ROWS)
    _write_batches(experiment, folder / REWRITE, batches, _NUM_STEPS * size)
    examples = f"{experiment.run.output}/{_BATCHES}"
    settings = experiment.train.model_copy(update={"examples": examples, "global_batch_size": size})
    began = time.monotonic()
    train(experiment.model_copy(update={"train": settings}), on_progress, verbose=verbose)
    seconds = time.monotonic() - began
    lines = read_metrics(folder / TRAIN)
    checkpoint_seconds = _checkpoint_seconds(folder / TRAIN)
    spent = sum(line["seconds"] for line in lines) + checkpoint_seconds
    steps = Steps(
        startup_seconds=seconds - spent,
        step_seconds=[line["seconds"] for line in lines],
        step_tokens=[line["num_tokens"] for line in lines],
        checkpoint_seconds=checkpoint_seconds,
    )
    return steps, max(line["peak_memory_bytes"] for line in lines)


def _write_batches(experiment: Experiment, source: Folder, target: Folder, num_rows: int) -> None:
    """The sample's examples that are short enough, again and again, as a rewrite folder of `num_rows` rows."""
    chat = load_chat(experiment.policy)
    rows = source.read_tables(PARTS, EXAMPLE_SCHEMA).to_pylist()
    fitting = [row for row in rows if encode_example(row, chat, experiment).num_tokens <= experiment.train.max_length]
    repeated = [fitting[index % len(fitting)] for index in range(num_rows)]
    target.write_table("part-00000.parquet", to_table(repeated, EXAMPLE_SCHEMA))
    # the rows are those that were scored, so the scores hold for them
    target.write_json(MANIFEST, {"fingerprint": source.read_json(MANIFEST)["fingerprint"]})


def _checkpoint_seconds(train_folder: Folder) -> float:
    """From the last step's line to the checkpoint's last file, by the clock of the storage."""
    files = train_folder.filesystem.get_file_info(fs.FileSelector(train_folder.path, recursive=True))
    complete = [info.mtime for info in files if info.base_name == COMPLETE]
    metrics = [info.mtime for info in files if info.base_name == METRICS]
    return max(0.0, (complete[0] - metrics[0]).total_seconds()) if complete and metrics else 0.0


def _num_bytes(folder: Folder, recursive: bool = True) -> int:
    selector = fs.FileSelector(folder.path, recursive=recursive, allow_not_found=True)
    return sum(info.size for info in folder.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
