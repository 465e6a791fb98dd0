"""The names of a run's files and folders that several modules share."""

CONFIG = "config.json"
REPORT = "report.html"
LOGS = "logs"
PROBE = "probe"  # the measurements and examples of `ossft check --probe`

# One folder per stage, in the order of the flow
REWRITE, SCORE, TRAIN, EVALUATE = "rewrite", "score", "train", "evaluate"
STAGES = (REWRITE, SCORE, TRAIN, EVALUATE)

# In the folder of each stage
INPUTS = "inputs.json"  # the settings and digests that its rows depend on; written first
MANIFEST = "manifest.json"  # written last: it marks the stage as complete
SESSIONS = "sessions"  # a log for each call of the command
ACTIVITY = "activity.jsonl"  # of the newest command that worked on the stage: its beginning, heartbeats, its end
PARTS = "part-*.parquet"
COUNTS = b"ossft_counts"  # in the metadata of a part: its counts

# rewrite/
PROBLEMS = "problems"  # the input, sharded into parts
INPUT_MANIFEST = "problems.json"
DROPPED_PARTS, REJECTED_PARTS = "dropped-*.parquet", "rejected-*.parquet"
UNFINISHED = "unfinished"  # logs of the attempts at parts in progress, one for each worker
BEFORE = "before"  # parts set aside to be extended, because more samples may be drawn now

# score/
KEPT, EXPERT_ORIGINAL = "kept", "expert_original"  # a score's source
ATTEMPT_PARTS = "attempts-*.parquet"  # the policy's attempts under a teacher; one for each part

# train/
METRICS = "metrics.jsonl"
CHECKPOINTS, COMPLETE = "checkpoints", "complete.json"  # the second marks a checkpoint as whole
MODEL = "model"

# evaluate/
ACCURACIES, DIFFERENCES, COSTS = "scores.json", "differences.json", "costs.json"
BASE, TRAINED = "base", "trained"  # folders of models
AVERAGE = "average"  # over benchmarks, in differences.json
SIZES = "sizes.json"  # in a model's folder: the numbers of problems and parts of each benchmark
BENCHMARKS = "benchmarks.json"  # in a model's folder: digests of the problems that its samples answer


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def part_number(part: str) -> int:
    return int(part.removeprefix("part-").removesuffix(".parquet"))


def round_name(number: int) -> str:
    """The folder of a later round; the first uses the run's folder itself."""
    return f"round-{number}"
