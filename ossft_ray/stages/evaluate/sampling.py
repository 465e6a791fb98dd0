"""Sampling the models: take whole benchmarks from the cache, let workers draw the rest, and add it to the cache."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ossft_ray.common.schema import SAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.distributed.progress import ALREADY_COMPLETE, OnProgress, announce
from ossft_ray.distributed.rollout_pool import run_workers
from ossft_ray.distributed.session import start_ray
from ossft_ray.engines.gpus import num_visible_gpus
from ossft_ray.run_folder.names import EVALUATE, PARTS, TRAINED, part_name
from ossft_ray.run_folder.resolved_run import Run, num_bytes
from ossft_ray.run_folder.sessions import Session
from ossft_ray.run_folder.stage_folder import MODEL_CHANGED, begin_stage, changed_inputs
from ossft_ray.stages.evaluate import benchmark_parts
from ossft_ray.stages.evaluate.benchmark_parts import PART_PROBLEMS, Benchmarks, folder_name, missing_parts, split_part
from ossft_ray.stages.evaluate.sample_cache import SampleCache
from ossft_ray.stages.evaluate.worker import EvaluatedModel, EvaluateWorker, solve_template
from ossft_ray.verification.fingerprint import verify_inputs

_UNRELATED_KEYS = {
    "columns",
    "benchmarks",
    "data_dir",
    "models",
    "template",
    "cache",
}  # they do not change a model's samples
# Engine arguments that make the weights in the engine differ from those in the files
_OTHER_WEIGHTS = {"quantization", "load_format", "model_loader_extra_config", "speculative_config"}


@dataclass(frozen=True)
class ModelSampling:
    """A model, the benchmarks to sample it on, and the folder of its samples."""

    name: str
    run: Run  # whose `[policy]` is the model
    benchmarks: Benchmarks
    folder: Folder
    report: OnProgress

    def begin(self, start_over: bool) -> list[str]:
        """Take what the cache has, and return the parts that are missing. `start_over` ignores the cache.

        Raises:
            InputError: the folder holds samples of other settings or problems.
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
            return []
        cache = self._cache()
        if cache is not None and not start_over:
            self._copy_from_cache(cache, digests, missing)
        return missing_parts(self.folder, self.benchmarks)

    def finish(self, drawn: list[str]) -> None:
        """Add the samples to the cache; those of benchmarks with new parts replace what it holds."""
        cache = self._cache()
        if cache is None:
            return
        changed = {split_part(part)[0] for part in drawn}
        for name, digest in benchmark_parts.record_benchmarks(self.folder, self.benchmarks).items():
            samples = (self.folder / folder_name(name)).read_tables(PARTS, SAMPLE_SCHEMA)
            cache.store(name, digest, samples, replace=name in changed)

    @property
    def num_problems(self) -> int:
        return sum(map(len, self.benchmarks.values()))

    def fits_engine_of(self, other: "ModelSampling") -> bool:
        """Whether an engine that holds the other model can load this one's weights in their place.

        Only where this process sees a GPU: on a CPU, an engine starts in seconds, and one whose weights were exchanged
        rounds differently from a new one: 227 of the demo's 3,200 responses changed.
        """
        if not num_visible_gpus():
            return False
        mine, others = self.run.experiment.policy, other.run.experiment.policy
        is_plain = not (mine.lora or others.lora or _OTHER_WEIGHTS & mine.engine.keys())
        return is_plain and bool(self.run.chat.model_shape) and self.run.chat.model_shape == other.run.chat.model_shape

    def _cache(self) -> SampleCache | None:
        return SampleCache.open(self.run.experiment, self.run.chat, sample_inputs(self.run), self._notify)

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

    def _notify(self, note: str) -> None:
        self.report({"model": self.name, "note": f"{self.name}: {note}"})


def sample_models(models: list[ModelSampling], start_over: bool, verbose: bool) -> None:
    """Draw and grade all missing samples. Models of one shape take turns in the same engines.

    Raises:
        InputError: a folder holds samples of other settings or problems.
        JobError: a worker failed.
    """
    missing = {model.name: model.begin(start_over) for model in models}
    waiting = [model for model in models if missing[model.name]]
    while waiting:
        together = [model for model in waiting if model is waiting[0] or model.fits_engine_of(waiting[0])]
        waiting = [model for model in waiting if model not in together]
        try:
            draw({model.name: model for model in together}, missing, verbose)
        finally:  # one model may be complete when another one fails
            for model in together:
                if not missing_parts(model.folder, model.benchmarks):
                    model.finish(missing[model.name])


def draw(models: dict[str, ModelSampling], missing: dict[str, list[str]], verbose: bool) -> None:
    """Let workers draw the missing parts of each of these models."""
    first = next(iter(models.values()))
    announce(first.report, model=first.name, starting="starting Ray")
    start_ray(first.run.experiment, verbose)
    session = Session(first.folder)
    longest = max(num_bytes(problem) for problems in first.benchmarks.values() for problem in problems)
    parts = [f"{name}:{part}" for name in models for part in missing[name]]
    totals = run_workers(
        EvaluateWorker,
        first.run.experiment,
        parts,
        PART_PROBLEMS * len(parts),
        f"{EVALUATE}-{first.name}",
        _Progress(models, missing),
        verbose,
        benchmarks=first.benchmarks,
        models={name: EvaluatedModel(model.run.experiment, model.folder) for name, model in models.items()},
        max_length=first.run.engine_length(longest),
    )
    session.end_phase(EVALUATE, totals)
    session.close()


class _Progress:
    """Reports the workers' totals as the progress of one model after another."""

    def __init__(self, models: dict[str, ModelSampling], missing: dict[str, list[str]]) -> None:
        self._models, self._missing = list(models.values()), missing
        self._before: Counter[str] = Counter()  # what the workers had done when the model's turn began

    def __call__(self, totals: dict[str, int]) -> None:
        while self._models:
            model = self._models[0]
            prefix = f"{model.name}/"
            own = {name.removeprefix(prefix): count for name, count in totals.items() if name.startswith(prefix)}
            shared = {name: count for name, count in totals.items() if "/" not in name}
            since = {name: count - self._before[name] for name, count in shared.items()}
            done_before = model.num_problems - benchmark_parts.num_problems(model.benchmarks, self._missing[model.name])
            of_all = {"policies": shared.get("policies", 0), "requests": shared.get("requests", 0)}
            state = {"model": model.name, "total": model.num_problems, "done_before": done_before}
            model.report({**state, **since, **of_all, **own})
            if done_before + own.get("problems", 0) < model.num_problems:
                return
            self._before = Counter(shared)
            self._models.pop(0)


def sample_inputs(run: Run) -> dict[str, Any]:
    """What the samples depend on, besides the benchmarks' problems."""
    experiment, template = run.experiment, solve_template(run.experiment)
    return {
        "run": {"seed": experiment.run.seed},
        "policy": experiment.policy.model_dump(mode="json", exclude={"model", "trust_remote_code"}),
        "policy_files": run.policy_digest,
        "prompts": {"system": template.system, "solve": template.solve},
        "evaluate": experiment.evaluate.model_dump(mode="json", exclude=_UNRELATED_KEYS),
        "verify": verify_inputs(experiment),
    }
