"""`ossft evaluate`: avg@k, pass@k and maj@k of several models on benchmarks, from stored responses and verdicts.

Every model is sampled with the same seeds, so that the differences between models are paired. Samples that another run
has drawn from the same model for the same problems are taken from the cache (`sample_cache.py`).
"""

import json

from ossft_ray.common.errors import InputError
from ossft_ray.config import Experiment
from ossft_ray.distributed.progress import OnProgress, ignore
from ossft_ray.distributed.replanning import replanned
from ossft_ray.distributed.session import check_output
from ossft_ray.engines.vllm_policy import check_engine_settings
from ossft_ray.run_folder.activity import recorded
from ossft_ray.run_folder.names import ACCURACIES, BASE, COSTS, DIFFERENCES, EVALUATE, MANIFEST, TRAIN, TRAINED
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.run_folder.reader import read_json
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.sessions import session_phases, session_total
from ossft_ray.stages.evaluate.accuracies import Accuracies, compare_models, model_accuracies
from ossft_ray.stages.evaluate.sampling import ModelSampling, sample_models


@replanned
def evaluate(
    run: Experiment | Run, on_progress: OnProgress = ignore, start_over: bool = False, verbose: bool = False
) -> Accuracies:
    """Evaluate the base model, the trained one if `train/` is complete, and `[evaluate] models`.

    Returns what `scores.json` holds; `differences.json` compares each model with the base model.
    `on_progress` gets running totals: `total`, `done_before`, and of this session `problems`, `correct`, `samples`,
    `generated_tokens`, with the `model` being sampled; sometimes a `note`. `start_over` takes nothing from the cache.

    Raises:
        InputError: a benchmark or a model cannot be used, or the folder holds samples of other settings.
        JobError: a worker failed; the same command resumes.
    """
    run = Run.of(run)
    experiment, folder = run.experiment, run.folder / EVALUATE
    check_output(experiment.run.output)
    check_engine_settings(experiment.policy.engine)
    if not experiment.evaluate.benchmarks:
        raise InputError("[evaluate] benchmarks is empty; name at least one")
    _, models = run.benchmarks, evaluated_models(run)  # refuses bad benchmarks
    for model in models.values():
        _ = model.chat  # refuse bad models before sampling any
    with recorded(folder):
        return _complete(run, models, on_progress, start_over, verbose)


def _complete(run: Run, models: dict[str, Run], on_progress: OnProgress, start_over: bool, verbose: bool) -> Accuracies:
    """Draw the missing samples of each model, and write the accuracies."""
    experiment, folder, benchmarks = run.experiment, run.folder / EVALUATE, run.benchmarks
    samplings = [ModelSampling(name, model, benchmarks, folder / name, on_progress) for name, model in models.items()]
    sample_models(samplings, start_over, verbose)
    accuracies: Accuracies = {name: model_accuracies(folder / name, list(benchmarks)) for name in models}
    differences = {
        name: compare_models(folder / BASE, folder / name, list(benchmarks)) for name in models if name != BASE
    }
    costs = {  # of all sessions, loading included; samples from the cache cost nothing
        "seconds": sum(session_phases(folder / name)[0].get(EVALUATE, 0.0) for name in models),
        "generated_tokens": sum(session_total(folder / name, "generated_tokens") for name in models),
    }
    for file, content in ((COSTS, costs), (ACCURACIES, accuracies), (DIFFERENCES, differences)):
        if read_json(folder, file) != json.loads(json.dumps(content)):  # otherwise a report on it is still up to date
            folder.write_json(file, content)
    write_config(experiment)
    return accuracies


def evaluated_models(run: Run) -> dict[str, Run]:
    """All models by name, base first, then trained if it is complete. Each is a run whose `[policy]` is that model."""
    is_trained = (run.folder / TRAIN).exists(MANIFEST)
    others = {name: other.pinned() for name, other in run.other_models.items()}
    return {BASE: run, **({TRAINED: run.of_trained_model} if is_trained else {}), **others}
