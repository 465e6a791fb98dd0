"""Secrets are recognised, experiments that contain one are refused, and text from other programs is masked."""

import json
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.secrets import has_secret, mask, split_password
from ossft_ray.common.storage import Folder
from ossft_ray.config import load_experiment, resolve
from ossft_ray.data.records import find_files
from ossft_ray.run_folder.names import CONFIG
from ossft_ray.run_folder.provenance import write_config

SECRET = "pl4nted/S3cret+x"
SOUND: dict[str, Any] = {"policy": {"model": "playground"}, "data": {"path": "p.jsonl"}}


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("s3://bucket/run", False),
        ("s3://bucket/run?endpoint_override=http://127.0.0.1:9000&scheme=http", False),
        ("http://127.0.0.1:9000/a@b.jsonl", False),
        ("abfs://container@account.dfs.core.windows.net/run", False),
        ("hf://datasets/owner/name@main/x.parquet", False),
        ("runs/a:b@c", False),
        ("s3://KEY:S3CR3T@bucket/run", True),
        ("s3://bucket/run?endpoint_override=http://me:word@host:9000", True),
        ("https://host/x.jsonl?X-Amz-Expires=60&X-Amz-Signature=abc", True),
        ("https://account.blob.core.windows.net/x.jsonl?sv=1&sig=abc", True),
        ("gs://bucket/x?access_token=abc", True),
    ],
)
def test_uris_that_contain_a_secret(uri: str, expected: bool) -> None:
    assert has_secret(uri) == expected
    assert (mask(uri) != uri) == expected


@pytest.mark.parametrize(
    "key, value",
    [
        ("run.output", f"s3://KEY:{SECRET.replace('/', '%2F')}@bucket/run"),
        ("data.path", ["p.jsonl", f"https://me:{SECRET.replace('/', '')}@host/p.jsonl"]),
        ("policy.model", f"s3://bucket/model?endpoint_override=http://me:{SECRET.replace('/', '')}@host"),
        ("policy.engine.hf_token", SECRET),
        ("train.deepspeed.comet.api_key", SECRET),
        ("evaluate.models.other", f"s3://KEY:{SECRET.replace('/', '')}@bucket/m"),
    ],
)
def test_an_experiment_with_a_secret_is_refused(key: str, value: Any) -> None:
    settings: dict[str, Any] = json.loads(json.dumps(SOUND))
    *sections, last = key.split(".")
    place = settings
    for section in sections:
        place = place.setdefault(section, {})
    place[last] = value
    with pytest.raises(InputError) as caught:
        resolve(settings)
    said = str(caught.value)
    assert f"'{key}' holds a secret" in said and "in the environment instead" in said
    assert "S3cret" not in said and "\n" not in said


def test_engine_arguments_without_secrets_pass(tmp_path: Path) -> None:
    engine = {"hf_token": True, "max_num_batched_tokens": 8, "tokenizer": "x", "skip_tokenizer_init": False}
    assert resolve({**SOUND, "policy": {"model": "x", "engine": engine}}).policy.engine == engine
    with pytest.raises(InputError, match="hf_token"):
        load_experiment(None, ["policy.model=x", "data.path=p.jsonl", f"policy.engine.hf_token={SECRET}"])


@pytest.mark.parametrize("use", [Folder.at, find_files])
def test_a_location_with_a_secret_is_refused(use: Any) -> None:
    with pytest.raises(InputError, match=r"s3://\*\*\*@bucket/x\.jsonl: a URI with a secret"):
        use("s3://KEY:S3cret@bucket/x.jsonl")


def test_text_from_other_programs_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("OTHER_TOKEN", "short")
    said = mask(f"401 for https://me:word@host/x?token=abc&y=1 with {SECRET}; a short word stays")
    assert json.loads(mask(json.dumps([f"https://host/x?token={SECRET}", "a://b:c", "d@e"])))[1:] == ["a://b:c", "d@e"]
    assert said == "401 for https://***@host/x?token=***&y=1 with ***; a short word stays"


def test_config_json_holds_no_secret_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    write_config(resolve({**SOUND, "run": {"output": str(tmp_path)}, "prompts": {"system": f"say {SECRET}"}}))
    content = (tmp_path / CONFIG).read_text()
    assert SECRET not in content
    assert json.loads(content)["experiment"]["prompts"]["system"] == "say ***"


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("", ("", None, None)),
        ("file:/tmp/x", ("file:/tmp/x", None, None)),
        ("https://host:5000/x", ("https://host:5000/x", None, None)),
        ("https://me:word@host:5000/x", ("https://host:5000/x", "me", "word")),
    ],
)
def test_a_password_is_split_from_its_uri(uri: str, expected: tuple[str, str | None, str | None]) -> None:
    assert split_password(uri) == expected


def test_mlflow_gets_its_password_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    from ossft_ray.stages.train.tracking import _hide_password

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://me:{SECRET.replace('/', '')}@host:5000")
    _hide_password()
    import os

    assert os.environ["MLFLOW_TRACKING_URI"] == "https://host:5000"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == SECRET.replace("/", "")
