"""A run's folder with everything that a report reads, written by hand: small, with figures that are easy to check."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from ossft_ray.common.schema import EXAMPLE_SCHEMA, REJECTED_SCHEMA, SAMPLE_SCHEMA, SCORE_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.run_folder.parts import write_counted
from ossft_ray.run_folder.provenance import write_config

ORIGINS = ("self", "guided", "expert", "self")
# log p of each response's two tokens
KEPT = {"self": (0.0, math.log(0.5)), "guided": (math.log(0.5), math.log(0.5)), "expert": (-30.0, -4.0)}
ORIGINAL = {"self": (-3.0, -4.0), "guided": (-5.0, -4.0), "expert": (-30.0, -4.0)}


def attempt(stage: str, index: int, reason: str, response: str | None = None) -> dict[str, Any]:
    values = {"stage": stage, "index": index, "correct": reason == "correct", "reason": reason, "num_tokens": 7}
    return values | {"finish_reason": "stop", "response": response}


def example(number: int, origin: str, **changes: Any) -> dict[str, Any]:
    row = {
        "problem_id": f"p{number}",
        "question": f"What is 1 + {number}?",
        "answer": str(1 + number),
        "expert_solution": f"It is {1 + number}.",
        "response": f"I find {1 + number}.",
        "origin": origin,
        "num_attempts": 2,
        "num_correct": int(origin != "expert"),
        "attempts": [attempt("self", 0, "wrong", "no"), attempt("self", 1, "correct" if origin == "self" else "wrong")],
        "policy": "playground",
    }
    return row | changes


def write_rewriting(output: str, rows: list[dict[str, Any]], finished: bool = True, rows_per_part: int = 2) -> None:
    """Examples in parts. Without `finished`, four more problems are still to do."""
    folder = Folder.at(output) / "rewrite"
    folder.write_json("inputs.json", {})
    for number, start in enumerate(range(0, len(rows), rows_per_part)):
        part = rows[start : start + rows_per_part]
        write_counted(folder, f"part-{number:05d}.parquet", to_table(part, EXAMPLE_SCHEMA), counts_of(part))
    rejected = {"problem_id": None, "source": "in.jsonl", "row": 3, "reason": "no_answer", "content": "{}"}
    folder.write_table("rejected-00000.parquet", to_table([rejected], REJECTED_SCHEMA))
    num_problems = len(rows) + (0 if finished else 4)
    origins = [row["origin"] for row in rows]
    manifest = {
        "problems": num_problems,
        "rejected": 1,
        "origins": {origin: origins.count(origin) for origin in ("self", "guided", "expert")},
        "dropped": 0,
        "attempts": 8,
        "generated_tokens": 5600,
        "prompt_tokens": 700,
        "reasons": {"self": {"wrong": 6, "correct": 2}, "guided": {"correct": 1}},
        "seconds": 1800,
        "fingerprint": "f" * 64,
    }
    if finished:
        folder.write_json("manifest.json", manifest)
    else:
        folder.write_json("problems.json", {"problems": num_problems, "rejected": 1})


def counts_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts stored with a part of these rows: of problems, each of which may have several rows."""
    problems = {row["problem_id"]: row for row in rows}.values()
    reasons: dict[str, Counter[str]] = {}
    for found in (found for row in problems for found in row["attempts"]):
        reasons.setdefault(found["stage"], Counter())[found["reason"]] += 1
    return {**Counter(row["origin"] for row in problems), "reasons": reasons}


def write_run(output: str, gpus: int = 2, trained: float = 0.5, loss: str = "dft") -> str:
    """A finished run of four problems."""
    rows = [example(number, origin) for number, origin in enumerate(ORIGINS)]
    write_rewriting(output, rows)
    folder = Folder.at(output)
    scores = [
        {"problem_id": row["problem_id"], "origin": row["origin"], "source": source, "token_ids": [1, 2]}
        | {"reference_logprobs": logprobs[row["origin"]]}
        for row in rows
        for source, logprobs in (("kept", KEPT), ("expert_original", ORIGINAL))
    ]
    (folder / "score").write_table("part-00000.parquet", to_table(scores, SCORE_SCHEMA))
    (folder / "score").write_json("manifest.json", {"seconds": 36.0, "fingerprint": "f", "kept": {"tokens": 8}})
    steps = [
        {
            "step": step,
            "loss": 1 / step,
            "cross_entropy": 2.0,
            "grad_norm": 1.0,
            "self/loss": 0.5,
            "learning_rate": 1e-4,
        }
        for step in range(1, 6)
    ]
    folder_train = folder / "train"
    folder_train.write_bytes("metrics.jsonl", "".join(json.dumps(step) + "\n" for step in steps).encode())
    manifest = {
        "steps": 5,
        "epochs": 1,
        "examples": 4,
        "tokens": 80,
        "too_long": [],
        "seconds": 3600,
        "fingerprint": "f",
    }
    folder_train.write_json("manifest.json", manifest)
    models = {"base": score(0.25), "trained": score(trained)}
    (folder / "evaluate").write_json("scores.json", {model: {"arithmetic": each} for model, each in models.items()})
    (folder / "evaluate").write_json("differences.json", {"trained": {"arithmetic": difference()}})
    write_settings(output, loss, gpus)
    return output


def write_answers(output: str, model: str, verdicts: dict[str, str], benchmark: str = "arithmetic") -> None:
    """A model's samples of a benchmark: for each problem id, `+` for each correct sample and `-` for each wrong one."""
    rows = [
        {"problem_id": problem_id, "question": f"Question {problem_id}?", "answer": "5", "index": index}
        | {"response": f"{model} says {sign}{index}", "correct": sign == "+", "finish_reason": "stop", "num_tokens": 3}
        | {"reason": "correct" if sign == "+" else "wrong", "extracted": None if sign == "-" else "5"}
        for problem_id, signs in verdicts.items()
        for index, sign in enumerate(signs)
    ]
    folder = Folder.at(output) / "evaluate" / model / benchmark
    for number in range(0, len(rows), 5):
        folder.write_table(f"part-{number // 5:05d}.parquet", to_table(rows[number : number + 5], SAMPLE_SCHEMA))


def difference(low: float = 0.1) -> dict[str, Any]:
    return {"difference": 0.25, "stderr": 0.05, "low": low, "high": 0.4, "smallest_detectable": 0.14}


def write_settings(output: str, loss: str = "dft", gpus: int = 2, model: str = "playground") -> None:
    settings = {
        "run": {"output": output, "seed": 7},
        "policy": {"model": model},
        "data": {"path": "train.jsonl"},
        "train": {"loss": loss},
    }
    write_config(resolve(settings), {"nodes": 1, "cpus": 8, "gpus": gpus})


def score(avg: float) -> dict[str, Any]:
    return {"avg": avg, "stderr": 0.05, "pass": {"1": avg, "4": 0.75}, "maj": 0.6, "problems": 40, "samples": 4}


def page_of(output: str) -> str:
    return Path(output, "report.html").read_text()
