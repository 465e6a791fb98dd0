"""The benchmark data that some tests read, from the folder that `OSSFT_TEST_DATA` names."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ["OSSFT_TEST_DATA"]) if "OSSFT_TEST_DATA" in os.environ else None
needs_data = pytest.mark.skipif(
    DATA is None or not DATA.is_dir(), reason="OSSFT_TEST_DATA names no folder of benchmark data"
)


def read_data(name: str) -> list[dict[str, Any]]:
    """The rows of one benchmark file."""
    assert DATA is not None
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
