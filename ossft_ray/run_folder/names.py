"""The names of a run's files and folders. Each name stands here and nowhere else in the package."""

CONFIG = "config.json"
REPORT = "report.html"
LOGS = "logs"
PROBE = "probe"  # the measurements and examples of `ossft check --probe`

# One folder a stage, in the order of the flow
REWRITE, SCORE, TRAIN, EVALUATE = "rewrite", "score", "train", "evaluate"
STAGES = (REWRITE, SCORE, TRAIN, EVALUATE)

# In the folder of each stage
INPUTS = "inputs.json"  # what its rows depend on, written first
MANIFEST = "manifest.json"  # written last: a manifest means done
SESSIONS = "sessions"  # a file for each time the command was given
PARTS = "part-*.parquet"
COUNTS = b"ossft_counts"  # in a part's metadata: what it came to

# rewrite/
PROBLEMS = "problems"  # the input, sharded into parts
INPUT_MANIFEST = "problems.json"
DROPPED_PARTS, REJECTED_PARTS = "dropped-*.parquet", "rejected-*.parquet"
UNFINISHED = "unfinished"  # a log of attempts for each part in progress and each worker that had it
BEFORE = "before"  # parts that are being rewritten again, because more samples may be drawn now

# train/
METRICS = "metrics.jsonl"
CHECKPOINTS, COMPLETE = "checkpoints", "complete.json"  # the second marks a checkpoint as whole
MODEL, BEST = "model", "best"

# evaluate/
ACCURACIES, DIFFERENCES, COSTS = "scores.json", "differences.json", "costs.json"
BASE, TRAINED = "base", "trained"  # folders of models
SIZES = "sizes.json"  # in a model's folder: problems and parts of each benchmark
BENCHMARKS = "benchmarks.json"  # in a model's folder: what its samples were drawn for


def part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def part_number(part: str) -> int:
    return int(part.removeprefix("part-").removesuffix(".parquet"))


def round_name(number: int) -> str:
    """The folder of a later round; the first stands at the top of the run's folder."""
    return f"round-{number}"
