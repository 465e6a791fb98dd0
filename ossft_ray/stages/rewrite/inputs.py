"""What do a rewrite's rows depend on, and which changes only add to them? The stage's fingerprint, and its growth."""

from typing import Any

from ossft_ray.common.storage import Folder
from ossft_ray.config import Experiment
from ossft_ray.data.contamination import benchmark_digests
from ossft_ray.data.problems import source_digests
from ossft_ray.policy.location import model_digest
from ossft_ray.run_folder.names import BEFORE, INPUTS, MANIFEST, PARTS
from ossft_ray.run_folder.parts import move_part
from ossft_ray.run_folder.stage_folder import differences
from ossft_ray.verification.fingerprint import verify_inputs

# vLLM arguments that say how fast a policy samples and on how many GPUs, not what.
_SPEED_ONLY = """
    tensor_parallel_size pipeline_parallel_size data_parallel_size distributed_executor_backend
    disable_custom_all_reduce max_num_seqs max_num_batched_tokens async_scheduling enable_chunked_prefill
    enable_prefix_caching gpu_memory_utilization kv_cache_memory_bytes swap_space cpu_offload_gb block_size
    enforce_eager compilation_config load_format download_dir max_parallel_loading_workers disable_log_stats
"""
_SAMPLES = ("rewrite.self_alignment.num_samples", "rewrite.guided_alignment.num_samples")
_SOURCES = ("data.limit", "data.sources")


def rewrite_inputs(experiment: Experiment) -> dict[str, Any]:
    """What the rows depend on: the keys of the stage's fingerprint."""
    policy = experiment.policy.model_dump(mode="json", exclude={"trust_remote_code"})  # a leave, no part of the model
    policy["engine"] = {name: v for name, v in policy["engine"].items() if name not in _SPEED_ONLY.split()}
    data = experiment.data.model_dump(mode="json", exclude={"path", "contamination", "contamination_ngram"})
    if experiment.data.contamination == "drop":
        benchmarks = benchmark_digests(experiment.data, experiment.evaluate)
        data["contamination"] = {"ngram": experiment.data.contamination_ngram, "benchmarks": benchmarks}
    return {
        "run": {"seed": experiment.run.seed},
        "policy": policy,
        "policy_files": model_digest(experiment.policy),
        "data": data | {"sources": source_digests(experiment.data)},
        "prompts": experiment.prompts.model_dump(mode="json", exclude={"template"}),  # its texts are what counts
        "rewrite": _rewrite_settings(experiment),
        "verify": verify_inputs(experiment.verify),
    }


def _rewrite_settings(experiment: Experiment) -> dict[str, Any]:
    """Without the keys that change nothing as they are: runs from before there were such keys go on."""
    settings = experiment.rewrite.model_dump(mode="json")
    return {
        key: value for key, value in settings.items() if value or key not in ("behavior_logprobs", "parroting_probe")
    }


def extends(key: str, old: Any, new: Any) -> bool:
    """More samples and other sources may add to what is there; that no problem changed is seen when they are read."""
    return key in _SOURCES or (key in _SAMPLES and new > old)


def make_room(folder: Folder, inputs: dict[str, Any]) -> None:
    """Record the inputs; where more samples may be drawn now, put the finished parts aside to be made again from.

    The inputs are written last: killed before that, the same command does the same again.
    """
    grown = [difference.key for difference in differences(folder.read_json(INPUTS), inputs)]
    if grown and folder.exists(MANIFEST):
        folder.delete_file(MANIFEST)
    if any(key in _SAMPLES for key in grown):
        for part in folder.names(PARTS):
            move_part(folder, part, folder / BEFORE)
    if grown:
        folder.write_json(INPUTS, inputs)
