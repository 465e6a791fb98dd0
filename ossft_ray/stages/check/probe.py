"""`ossft check --probe N`: rewrite, score and train on N problems, then forecast the run.

The run's seed draws the sample from all usable problems. The probe uses the experiment's own settings, so it draws the
same responses for these problems as the run will. It trains three whole global batches; a small sample is repeated to
fill them. The measurements stay in `probe/` of the run's folder, and are reused until the experiment, its files or the
cluster's GPUs change.
"""

import json
import shutil
import time
from dataclasses import asdict
from typing import Any

import ray
from pyarrow import fs
from pydantic import TypeAdapter

from ossft_ray.common.errors import InputError, brief
from ossft_ray.common.schema import EXAMPLE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Problem
from ossft_ray.common.uris import join
from ossft_ray.config import Columns, Experiment
from ossft_ray.distributed.nodes import alive_nodes
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, OnStage, ignore_stages
from ossft_ray.distributed.session import plan_resources, start_ray
from ossft_ray.engines.in_flight import problems_in_flight
from ossft_ray.policy.example_tokens import encode_example
from ossft_ray.run_folder.metrics_log import read_metrics
from ossft_ray.run_folder.names import CHECKPOINTS, MANIFEST, MODEL, PARTS, PROBE, REWRITE, SCORE, TRAIN, part_name
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.sessions import session_total
from ossft_ray.run_folder.stage_folder import fingerprint
from ossft_ray.stages.check.forecast import DROPPED, Forecast, Measurement, RunPlan, Timing, forecast
from ossft_ray.stages.check.probe_worker import MEMORY, ProbeWorker
from ossft_ray.stages.check.stage import Findings
from ossft_ray.stages.rewrite.stage import rewrite
from ossft_ray.stages.score.stage import score
from ossft_ray.stages.train.checkpoints import NUM_KEPT
from ossft_ray.stages.train.stage import train

_MEASURED, _PROBLEMS, _BATCHES = "measured.json", "problems.jsonl", "batches"
_FORMAT = 2  # of measured.json
_NUM_STEPS = 3  # a warm-up, and two that are timed


def probe(
    run: Experiment | Run, findings: Findings, on_stage: OnStage = ignore_stages, verbose: bool = False
) -> Forecast:
    """Forecast the run from `findings.sample`; `on_stage` is called as in `run`.

    Raises:
        InputError: the experiment cannot run as it is, or trains on the rows of another run.
        JobError: a stage failed.
    """
    run = run if isinstance(run, Run) else Run(run)
    experiment, folder = run.experiment, run.folder / PROBE
    if experiment.train.examples is not None:
        raise InputError(
            "[train] examples: a probe trains on what it rewrites itself, but this experiment names the rows of "
            "another run; leave the key out for the probe"
        )
    small = probe_experiment(experiment)
    rows = [json.dumps(sample_row(problem)) + "\n" for problem in findings.sample]
    try:
        folder.write_bytes(_PROBLEMS, "".join(rows).encode())
    except OSError as error:
        raise InputError(f"[run] output: {brief(error)}; choose one that can be written to") from error
    start_ray(small, verbose)
    key = _measurement_key(run, findings)
    before = folder.read_json(_MEASURED) if folder.exists(_MEASURED) else {}
    if before.get("fingerprint") == key:
        on_stage(PROBE)(ALREADY_COMPLETE)
        measured = TypeAdapter(Measurement).validate_python(before["measured"])
    else:
        measured = _measure(Run.of(small), findings, on_stage, verbose)
        folder.write_json(_MEASURED, {"fingerprint": key, "measured": asdict(measured)})
    return forecast(measured, plan_run(experiment, findings))


def probe_experiment(experiment: Experiment) -> Experiment:
    """The experiment on the sample alone, in a separate folder, without what costs time but changes no rows."""
    output = join(experiment.run.output, PROBE)
    columns = Columns(question="question", expert_solution="expert_solution")
    data = {"path": join(output, _PROBLEMS), "limit": None, "columns": columns}
    passed = {"bad_golds": "ignore", "duplicates": "keep", "contamination": "ignore"}  # checks of the whole input
    training = {"holdout": 0.0, "keep": "last", "epochs": 1, "stop_after": None, "tracking": []}
    one_checkpoint = {"checkpoint_every": 10**9}  # at the end
    changes: dict[str, dict[str, Any]] = {
        "run": {"output": output},
        "data": data | passed,
        "train": training | one_checkpoint,
    }
    sections = {name: getattr(experiment, name).model_copy(update=update) for name, update in changes.items()}
    return experiment.model_copy(update=sections)


def sample_row(problem: Problem) -> dict[str, Any]:
    """A problem as a row of the sample's file."""
    asked = {}
    if problem.conversation:
        messages = json.loads(problem.conversation)
        asked = {"question": messages, "tools": messages[0].get("tools")}
    return {"id": problem.problem_id, **vars(problem), **asked}


def plan_run(experiment: Experiment, findings: Findings) -> RunPlan:
    """The run on the cluster as it is now."""
    resources = plan_resources(experiment.resources, experiment.policy.engine)
    policy_gpus = resources.num_policies * resources.gpus_per_policy
    train_gpus = resources.num_train_workers * resources.gpus_per_train_worker
    has_gpus, num_nodes = policy_gpus + train_gpus > 0, len(alive_nodes())
    output = Folder.at(experiment.run.output).local_path
    return RunPlan(
        num_problems=findings.counts.problems,
        num_policies=resources.num_policies,
        problems_in_flight=problems_in_flight(experiment),
        policy_devices=policy_gpus if has_gpus else num_nodes,
        train_devices=train_gpus if has_gpus else num_nodes,
        device="GPU" if has_gpus else "machine",
        train=experiment.train,
        checkpoints_at_once=NUM_KEPT + 1,  # a new one is written before the oldest is removed
        evaluated_models=2 + len(experiment.evaluate.models),  # base and trained
        samples_per_model=sum(findings.benchmarks.values()) * experiment.evaluate.num_samples,
        rounds=experiment.loop.rounds,
        free_bytes=shutil.disk_usage(output).free if output is not None else None,
    )


def _measurement_key(run: Run, findings: Findings) -> str:
    """The fingerprint of all that a measurement depends on."""
    inputs = {
        "format": _FORMAT,
        "experiment": run.experiment.model_dump(mode="json"),
        "sources": run.source_digests,
        "model": run.policy_digest,
        "sample": [problem.problem_id for problem in findings.sample],
        "gpus": ray.cluster_resources().get("GPU", 0),
    }
    return fingerprint(inputs)


def _measure(run: Run, findings: Findings, on_stage: OnStage, verbose: bool) -> Measurement:
    """Run the stages on the sample. Its examples stay in the folder; checkpoints and the model are removed again."""
    folder = run.folder
    for name in (REWRITE, SCORE, _BATCHES, TRAIN, MEMORY):
        (folder / name).delete()  # the times of an interrupted probe are useless
    manifest = rewrite(run, on_stage(REWRITE), verbose=verbose, worker=ProbeWorker)
    phases, num_policies = manifest["phases"], max(1, session_total(folder / REWRITE, "policies"))
    sampling, attempts_of_each = phases.get("sampling", 0.0), manifest["attempts"] / num_policies
    timings = {REWRITE: Timing(phases["rewriting"] - sampling, sampling, attempts_of_each or 1.0)}
    fitting = _fitting_examples(run)
    if fitting:
        began = time.monotonic()
        seconds = score(run, on_stage(SCORE), verbose=verbose)["seconds"]
        timings[SCORE] = Timing(time.monotonic() - began - seconds, seconds, len(findings.sample))
        timings[TRAIN] = _train(run, fitting, on_stage(TRAIN), verbose)
    memory = folder / MEMORY
    measured = Measurement(
        fates={**manifest["origins"], DROPPED: manifest["dropped"]},
        attempts=manifest["attempts"],
        generated_tokens=manifest["generated_tokens"],
        prompt_tokens=manifest["prompt_tokens"],
        examples=len(fitting),
        too_long=manifest["examples"] - len(fitting),
        ingest_seconds=findings.seconds,
        timings=timings,
        rows_bytes=_num_bytes(folder / REWRITE) + _num_bytes(folder / SCORE),
        checkpoint_bytes=_num_bytes(folder / TRAIN / CHECKPOINTS),
        model_bytes=_num_bytes(folder / TRAIN / MODEL),
        policy_memory=max(map(memory.read_json, memory.names()), default=0),
        trainer_memory=max((line["peak_memory_bytes"] for line in read_metrics(folder / TRAIN)), default=0),
    )
    for name in (_BATCHES, TRAIN):
        (folder / name).delete()
    return measured


def _train(run: Run, examples: list[dict[str, Any]], on_progress: OnProgress, verbose: bool) -> Timing:
    """Three steps of the global batch. The first step, the checkpoint and the export count as start-up."""
    settings = run.experiment.train
    _write_batches(run.folder, examples, _NUM_STEPS * settings.global_batch_size)
    batches = settings.model_copy(update={"examples": join(run.experiment.run.output, _BATCHES)})
    began = time.monotonic()
    train(run.updated(train=batches), on_progress, verbose=verbose)
    seconds = time.monotonic() - began
    timed = read_metrics(run.folder / TRAIN)[1:]
    step_seconds = sum(line["seconds"] for line in timed)
    return Timing(seconds - step_seconds, step_seconds, sum(line["num_examples"] for line in timed))


def _write_batches(folder: Folder, examples: list[dict[str, Any]], num_rows: int) -> None:
    """Repeat the examples until there are `num_rows`, as a rewrite folder that `train` can read."""
    rows = [examples[index % len(examples)] for index in range(num_rows)]
    (folder / _BATCHES).write_table(part_name(0), to_table(rows, EXAMPLE_SCHEMA))
    # these rows were scored, so their scores are valid
    (folder / _BATCHES).write_json(MANIFEST, {"fingerprint": (folder / REWRITE).read_json(MANIFEST)["fingerprint"]})


def _fitting_examples(run: Run) -> list[dict[str, Any]]:
    """The examples that are short enough to train on."""
    rows = (run.folder / REWRITE).read_tables(PARTS, EXAMPLE_SCHEMA).to_pylist()
    max_length = run.experiment.train.max_length
    return [row for row in rows if encode_example(row, run.chat, run.experiment).num_tokens <= max_length]


def _num_bytes(folder: Folder) -> int:
    selector = fs.FileSelector(folder.path, recursive=True, allow_not_found=True)
    return sum(info.size for info in folder.filesystem.get_file_info(selector) if info.type == fs.FileType.File)
