"""The inputs that a rewrite's rows depend on, and which changes of them only add to a finished run."""

from typing import Any, get_args

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.common.types import Stage
from ossft_ray.config import Rewrite
from ossft_ray.policy.model_location import model_digest
from ossft_ray.run_folder.names import BEFORE, INPUTS, MANIFEST, PARTS
from ossft_ray.run_folder.parts import move_part
from ossft_ray.run_folder.resolved_run import Run
from ossft_ray.run_folder.stage_folder import differences
from ossft_ray.stages.rewrite.external import external_policy
from ossft_ray.verification.fingerprint import verify_inputs

# vLLM arguments that affect how fast a policy samples and on how many GPUs, but not what it samples.
_SPEED_ONLY = """
    tensor_parallel_size pipeline_parallel_size data_parallel_size distributed_executor_backend
    disable_custom_all_reduce max_num_seqs max_num_batched_tokens async_scheduling enable_chunked_prefill
    enable_prefix_caching gpu_memory_utilization kv_cache_memory_bytes swap_space cpu_offload_gb block_size
    enforce_eager compilation_config load_format download_dir max_parallel_loading_workers disable_log_stats
"""
_NUM_SAMPLES = tuple(f"rewrite.{stage}_alignment.num_samples" for stage in get_args(Stage))
_EXTERNAL, _EXTERNAL_FILES = "external_alignment", "external_files"
# How another model is reached, but not which one it is
_CONNECTION = ("url", "api_key_env", "max_in_flight", "timeout_seconds", "max_retries")
_SOURCES = ("data.limit", "data.sources")
_LATER_OPTIONS = ("behavior_logprobs", "solved_in")  # older runs lack them, and resume if they are off


def rewrite_inputs(run: Run) -> dict[str, Any]:
    """What the rows depend on; the stage's fingerprint is computed from it.

    Raises:
        InputError: an input cannot be used, such as `rewrite.solved_in`.
    """
    experiment = run.experiment
    # trust_remote_code is a permission, not part of the model.
    policy = experiment.policy.model_dump(mode="json", exclude={"trust_remote_code"})
    policy["engine"] = _without_speed_only(policy["engine"])
    data = experiment.data.model_dump(
        mode="json", exclude={"path", "max_broken", "contamination", "contamination_ngram"}
    )
    if experiment.data.contamination == "drop":
        data["contamination"] = {"ngram": experiment.data.contamination_ngram, "benchmarks": run.benchmark_digests}
    rewriting = experiment.rewrite.model_dump(mode="json", exclude={_EXTERNAL: set(_CONNECTION)})
    rewriting["solved_in"] = solved_fingerprint(experiment.rewrite)
    rewriting[_EXTERNAL]["engine"] = _without_speed_only(rewriting[_EXTERNAL]["engine"])
    inputs = {
        "run": {"seed": experiment.run.seed},
        "policy": policy,
        "policy_files": run.policy_digest,
        "data": data | {"sources": run.source_digests},
        "prompts": experiment.prompts.model_dump(mode="json", exclude={"template"}),  # its texts have their own keys
        "rewrite": {key: value for key, value in rewriting.items() if value or key not in _LATER_OPTIONS},
        "verify": verify_inputs(experiment),
    }
    external = external_policy(experiment)
    files = {_EXTERNAL_FILES: model_digest(external)} if external is not None else {}
    return without_unused(inputs | files)


def without_unused(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs without those of the external stage, if that is not configured."""
    if "external" in inputs["rewrite"]["stages"]:
        return inputs
    rewriting = {key: value for key, value in inputs["rewrite"].items() if key != _EXTERNAL}
    return {key: value for key, value in inputs.items() if key != _EXTERNAL_FILES} | {"rewrite": rewriting}


def _without_speed_only(engine: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in engine.items() if name not in _SPEED_ONLY.split()}


def solved_fingerprint(settings: Rewrite) -> str | None:
    """The fingerprint of the rewrite whose solved problems are copied; None if there is none.

    Raises:
        InputError: it is not complete.
    """
    if settings.solved_in is None:
        return None
    folder = Folder.at(settings.solved_in)
    if not folder.exists(MANIFEST):
        raise InputError(
            f"[rewrite] solved_in: {folder.path} holds no complete examples (no {MANIFEST}); "
            "name a finished run's rewrite folder"
        )
    return str(folder.read_json(MANIFEST)["fingerprint"])


def is_extension(key: str, old: Any, new: Any) -> bool:
    """Whether a changed input only adds to a run. Ingestion checks that changed sources still hold all problems."""
    return key in _SOURCES or (key in _NUM_SAMPLES and new > old)


def record_growth(folder: Folder, inputs: dict[str, Any]) -> None:
    """Record the inputs of a run that grows. If it may draw more samples now, move its parts to `before/` for updating.

    The inputs are written last, so after an earlier kill the same command repeats these steps.
    """
    grown = [difference.key for difference in differences(folder.read_json(INPUTS), inputs)]
    if grown and folder.exists(MANIFEST):
        folder.delete_file(MANIFEST)
    if any(key in _NUM_SAMPLES for key in grown):
        for part in folder.names(PARTS):
            move_part(folder, part, folder / BEFORE)
    if grown:
        folder.write_json(INPUTS, inputs)
