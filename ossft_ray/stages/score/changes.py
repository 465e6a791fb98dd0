"""Discarding the parts of scores whose examples have changed."""

import hashlib
import json
from typing import Any

from ossft_ray.common.schema import EXAMPLE_SCHEMA
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.names import ATTEMPT_PARTS, MANIFEST, PARTS
from ossft_ray.run_folder.parts import read_counts
from ossft_ray.run_folder.reader import columns, read_columns

EXAMPLES = "examples"  # in the counts of a part of scores: the digest of its examples
_SCORED = (
    "problem_id",
    "origin",
    "prompt",
    "conversation",
    "response",
    "response_token_ids",
    "expert_solution",
    "policy",
)


def examples_digest(rows: list[dict[str, Any]]) -> str:
    """A digest of everything in a part's EXAMPLE rows that their scores depend on."""
    # older digests include no conversation
    scored = [{name: row[name] for name in _SCORED if row.get(name) or name != "conversation"} for row in rows]
    return hashlib.sha256(json.dumps(scored, ensure_ascii=False).encode()).hexdigest()


def discard_changed_parts(folder: Folder, source: Folder) -> int:
    """Delete the manifest and the parts of scores in `folder` whose examples in `source` have changed.

    Attempts may change without their part's examples, so the scores of all attempts are deleted. Returns the number of
    parts to score. After a kill, the same call finds what is left to discard.
    """
    for name in (*folder.names(MANIFEST), *folder.names(ATTEMPT_PARTS)):
        folder.delete_file(name)
    names, schema = source.names(PARTS), columns(EXAMPLE_SCHEMA, *_SCORED)
    kept = 0
    for name in folder.names(PARTS):
        scored = read_counts(folder, name).get(EXAMPLES)
        if name in names and scored == examples_digest(read_columns(source, name, schema).to_pylist()):
            kept += 1
        else:
            folder.delete_file(name)
    return len(names) - kept
