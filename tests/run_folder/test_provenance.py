"""`config.json` keeps what earlier stages recorded."""

from pathlib import Path

from ossft_ray.common.storage import Folder
from ossft_ray.config import resolve
from ossft_ray.run_folder.names import CONFIG
from ossft_ray.run_folder.provenance import write_config


def test_machines_are_kept_until_a_stage_runs_on_others(tmp_path: Path) -> None:
    settings = {"run": {"output": str(tmp_path)}, "policy": {"model": "x"}, "data": {"path": "p.jsonl"}}
    experiment, recorded = resolve(settings), []
    for machines in (None, {"nodes": 1, "cpus": 8, "gpus": 2}, None, {"nodes": 2, "cpus": 16, "gpus": 4}, None):
        write_config(experiment, machines)
        found = Folder.at(str(tmp_path)).read_json(CONFIG)["machines"]
        recorded.append(found and found["gpus"])
    assert recorded == [None, 2, 2, 4, 4]
