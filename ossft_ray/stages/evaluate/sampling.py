"""Sampling one model: take whole benchmarks from the cache, let workers draw the rest, and add it to the cache."""

from dataclasses import dataclass
from typing import Any

from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, announce
from ossft_ray.distributed.rollout_pool import run_workers
from ossft_ray.distributed.session import start_ray
from ossft_ray.run_folder.names import EVALUATE, PARTS, TRAINED, part_name
from ossft_ray.run_folder.resolved_run import Run, num_bytes
from ossft_ray.run_folder.sessions import Session
from ossft_ray.run_folder.stage_folder import MODEL_CHANGED, begin_stage, changed_inputs
from ossft_ray.stages.evaluate import benchmark_parts
from ossft_ray.stages.evaluate.benchmark_parts import PART_PROBLEMS, Benchmarks, folder_name, missing_parts, split_part
from ossft_ray.stages.evaluate.sample_cache import SampleCache
from ossft_ray.stages.evaluate.worker import EvaluateWorker, solve_template
from ossft_ray.verification.fingerprint import verify_inputs

_UNRELATED_KEYS = {
    "columns",
    "benchmarks",
    "data_dir",
    "models",
    "template",
    "cache",
}  # they do not change a model's samples


@dataclass(frozen=True)
class ModelSampling:
    """A model, the benchmarks to sample it on, and the folder of its samples."""

    name: str
    run: Run  # whose `[policy]` is the model
    benchmarks: Benchmarks
    folder: Folder
    report: OnProgress

    def complete(self, start_over: bool, verbose: bool) -> None:
        """Draw and grade all missing samples. With `start_over` none are taken from the cache.

        Raises:
            InputError: the folder holds samples of other settings or problems.
            JobError: a worker failed.
        """
        inputs = sample_inputs(self.run)
        changes = [] if start_over else changed_inputs(self.folder, inputs)
        is_retrained = self.name == TRAINED and [change.key for change in changes] == ["policy_files"]
        if is_retrained:
            self._notify(f"{MODEL_CHANGED}; it is sampled again")
        begin_stage(self.folder, inputs, start_over or is_retrained)
        digests = benchmark_parts.record_benchmarks(self.folder, self.benchmarks)
        missing = missing_parts(self.folder, self.benchmarks)
        if not missing:
            self.report(ALREADY_COMPLETE | {"model": self.name})
            return
        cache = SampleCache.open(self.run.experiment, self.run.chat, inputs, self._notify)
        if cache is not None and not start_over:
            self._copy_from_cache(cache, digests, missing)
            missing = missing_parts(self.folder, self.benchmarks)
        if missing:
            self._draw(missing, verbose)
        if cache is not None:
            drawn = {split_part(part)[0] for part in missing}
            for name, digest in digests.items():
                samples = (self.folder / folder_name(name)).read_tables(PARTS, SAMPLE_SCHEMA)
                cache.store(name, digest, samples, replace=name in drawn)

    def _copy_from_cache(self, cache: SampleCache, digests: dict[str, str], missing: list[str]) -> None:
        num_samples = self.run.experiment.evaluate.num_samples
        rows_per_part = PART_PROBLEMS * num_samples
        for name, problems in self.benchmarks.items():
            numbers = [number for benchmark, number in map(split_part, missing) if benchmark == name]
            samples = cache.load(name, digests[name], problems, num_samples) if numbers else None
            if samples is not None:
                for number in numbers:
                    rows = samples.slice(number * rows_per_part, rows_per_part)
                    (self.folder / folder_name(name)).write_table(part_name(number), rows)
                self._notify(f"{len(problems)} problems of {name} come from the cache, {cache.folder.path}")

    def _draw(self, missing: list[str], verbose: bool) -> None:
        num_parts = sum(map(benchmark_parts.num_parts, self.benchmarks.values()))
        before = {
            "model": self.name,
            "total": sum(map(len, self.benchmarks.values())),
            "done_before": PART_PROBLEMS * (num_parts - len(missing)),
        }
        announce(self.report, model=self.name, starting="starting Ray")
        start_ray(self.run.experiment, verbose)
        session = Session(self.folder)
        longest = max(num_bytes(problem) for problems in self.benchmarks.values() for problem in problems)
        totals = run_workers(
            EvaluateWorker,
            self.run.experiment,
            missing,
            PART_PROBLEMS * len(missing),
            f"{EVALUATE}-{self.name}",
            lambda totals: self.report(before | totals),
            verbose,
            benchmarks=self.benchmarks,
            folder=self.folder,
            max_length=self.run.engine_length(longest),
        )
        session.end_phase(EVALUATE, totals)
        session.close()

    def _notify(self, note: str) -> None:
        self.report({"model": self.name, "note": f"{self.name}: {note}"})


def sample_inputs(run: Run) -> dict[str, Any]:
    """What the samples depend on, besides the benchmarks' problems."""
    experiment, template = run.experiment, solve_template(run.experiment)
    return {
        "run": {"seed": experiment.run.seed},
        "policy": experiment.policy.model_dump(mode="json", exclude={"model", "trust_remote_code"}),
        "policy_files": run.policy_digest,
        "prompts": {"system": template.system, "solve": template.solve},
        "evaluate": experiment.evaluate.model_dump(mode="json", exclude=_UNRELATED_KEYS),
        "verify": verify_inputs(experiment.verify),
    }
