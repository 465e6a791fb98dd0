"""What the reader of a run's folder provides for statistics."""

from pathlib import Path

from ossft_ray.common.schema import DROPPED_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.reader import open_run
from tests.export.runs import attempt, example, write_run


def test_attempts_of_a_problem_count_once_and_their_texts_are_not_read(tmp_path: Path) -> None:
    twice = example(0, "self", attempts=[attempt("self", 0, "correct", "a text")])
    run = write_run(str(tmp_path), [[twice, twice]])
    dropped = {name: value for name, value in example(4, "expert").items() if name in DROPPED_SCHEMA.names}
    (Folder.at(run) / "rewrite").write_table("dropped-00000.parquet", to_table([dropped], DROPPED_SCHEMA))
    found = dict(open_run(run).attempts_by_problem())
    assert found["p0"] == [{"stage": "self", "index": 0, "correct": True, "num_tokens": 7}]
    assert [attempt["stage"] for attempt in found["p4"]] == ["self", "guided"] and len(found) == 2
