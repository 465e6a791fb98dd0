"""Real commands whose stages are scripted: each diverts the native stderr as Ray's session does, moves a bar, and ends.

python -m tests.terminal.scripted_commands OUTPUT
"""

import os
import sys
import types
from collections.abc import Callable
from typing import Any

from ossft_ray import cli
from ossft_ray.common.errors import InputError, JobError, Stopped
from ossft_ray.common.storage import Folder
from ossft_ray.distributed.logs import divert_native_stderr

FIGURES = {"tokens": 5, "responses": 1, "mean_logprob": -0.5, "perplexity": 1.65, "effective_sample_size": 0.7}
ACCURACY = {"avg": 0.5, "stderr": 0.1, "problems": 9, "samples": 4}
DIFFERENCE = {"difference": 0.0, "low": -0.1, "high": 0.1, "smallest_detectable": 0.2}
GROUPS = ("self", "guided", "expert", "kept", "expert_originals")
RESULTS: dict[str, Any] = {
    "rewrite": {
        "problems": 8,
        "origins": {"self": 4, "guided": 2, "expert": 2},
        "dropped": 0,
        "rejected": 1,
        "attempts": 1200,
        "generated_tokens": 34000,
        "speculative_attempts": 100,
        "reasons": {"self": {"wrong": 900, "correct": 100, "truncated": 90, "repetition": 80, "timeout": 30}},
        "phases": {"reading data": 26.0, "rewriting": 3755.0, "loading": 119.0, "sampling": 3006.0},
    },
    "score": {**dict.fromkeys(GROUPS, FIGURES), "too_long": {"kept": 1, "expert_originals": 2}},
    "train": {"steps": 9, "examples": 8, "too_long": [], "cross_entropy": 5.0854},
    "evaluate": {"base": {"playground-level4": ACCURACY}, "trained": {"playground-level4": ACCURACY}},
}
SAMPLING = {"problems": 4, "sampled_tokens": 900, "sampling_ms": 9000, "policies": 2, "total": 8, "done_before": 0}
PROGRESS: dict[str, dict[str, Any]] = {
    "rewrite": SAMPLING | {"self": 2, "guided": 1, "expert": 1},
    "score": {"total": 8, "done_before": 0, "parts": 4, "tokens": 900, "seconds": 9.0},
    "train": {"step": 4, "num_steps": 9, "loss": 0.5, "cross_entropy": 1.5, "tokens_per_second": 10.0, "seconds": 1.0},
    "evaluate": SAMPLING | {"model": "base", "samples": 16, "correct": 8},
}
ENDS: dict[str, Callable[[], None]] = {
    "success": lambda: None,
    "error": lambda: fail(JobError("worker 0 failed: ValueError: no kernel; finished work is kept")),
    "refusal": lambda: fail(InputError("the examples have changed since; run `ossft score` first")),
    "stop": lambda: fail(Stopped("train: stopped after step 4 of 9; run the same command again to resume")),
    "Ctrl-C": lambda: fail(KeyboardInterrupt()),
}


def fail(error: BaseException) -> None:
    raise error


def script(stage: str, end: str) -> None:
    """Let `ossft STAGE` call a function that ends in this way."""

    def scripted(experiment: Any, on_progress: Any, start_over: bool, verbose: bool) -> Any:
        on_progress({"starting": "starting Ray"})
        print("a library warns", file=sys.stderr)
        divert_native_stderr(experiment)
        os.write(2, b"what Ray prints\n")
        on_progress(PROGRESS[stage])
        ENDS[end]()
        return RESULTS[stage]

    module = types.ModuleType(f"ossft_ray.stages.{stage}")
    setattr(module, stage, scripted)
    sys.modules[module.__name__] = module


def main(output: str) -> None:
    """Run each command once for each way it can end."""
    Folder.at(f"{output}/evaluate").write_json("differences.json", {"trained": {"playground-level4": DIFFERENCE}})
    sys.modules["ossft_ray.stages.evaluate.accuracies"] = accuracies = types.ModuleType("accuracies")
    vars(accuracies)["read_differences"] = lambda output: Folder.at(f"{output}/evaluate").read_json("differences.json")
    settings = [f"run.output={output}", "policy.model=playground", "data.path=x.jsonl"]
    options = [word for setting in settings for word in ("--set", setting)]
    for stage in RESULTS:
        for end in ENDS:
            script(stage, end)
            sys.argv = ["ossft", stage, *options]
            try:
                cli.main()
            except SystemExit as leaving:
                print(f"== {stage}, {end}: {leaving.code}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
