"""A run's folder in an object store, over a real S3 protocol: URIs, parts, checkpoints, models."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.storage import Folder
from ossft_ray.common.uris import absolute, join
from ossft_ray.config import Evaluate, Policy, Train
from ossft_ray.data.benchmarks import benchmark_digest, read_benchmark
from ossft_ray.data.records import find_files, read_records
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import model_digest, model_path
from ossft_ray.run_folder.line_log import LineLog, read_lines
from ossft_ray.run_folder.stage_folder import begin_stage, finish_stage
from ossft_ray.stages.train.checkpoints import Checkpoints, local_copy
from tests.s3 import BUCKET, Store, credentials, serve


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with credentials(), serve() as store:
        yield store


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OSSFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.mark.parametrize(
    "location, names, expected",
    [
        ("runs/x", ["round-2"], "runs/x/round-2"),
        ("runs/x/", ["train", "model"], "runs/x/train/model"),
        ("a?b", ["c"], "a?b/c"),
        ("/", ["x"], "//x"),
        ("s3://b/run", ["round-2"], "s3://b/run/round-2"),
        (
            "s3://b/run/?endpoint_override=http://h:1&scheme=http",
            ["train", "model"],
            "s3://b/run/train/model?endpoint_override=http://h:1&scheme=http",
        ),
    ],
)
def test_join(location: str, names: list[str], expected: str) -> None:
    assert join(location, *names) == expected


@pytest.mark.parametrize(
    "location, expected",
    [
        ("x", f"{os.getcwd()}/x"),
        ("file:///tmp/x", "/tmp/x"),
        ("s3://b/x?endpoint_override=http://h:1", "s3://b/x?endpoint_override=http://h:1"),
    ],
)
def test_absolute(location: str, expected: str) -> None:
    assert absolute(location) == expected


@pytest.mark.parametrize("variable", [None, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_servers_address_comes_from_the_uri_or_the_environment(
    store: Store, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = store.uri("where/run")
    if variable is not None:
        monkeypatch.setenv(variable, store.url)
        uri = f"s3://{BUCKET}/where/run"
    folder = Folder.at(uri) / "rewrite"
    folder.write_json("a.json", [variable])
    assert Folder.at(join(uri, "rewrite")).read_json("a.json") == [variable]
    parent, name = Folder.of_file(join(uri, "rewrite", "a.json"))
    assert (parent.path, name, parent.exists(name)) == (f"{BUCKET}/where/run/rewrite", "a.json", True)
    assert folder.names() == ["a.json"]
    folder.delete()
    assert not folder.exists()


def test_a_stage_in_a_store_begins_resumes_and_completes(store: Store) -> None:
    folder = Folder.at(store.uri("stages")) / "rewrite"
    assert begin_stage(folder, {"seed": 0}) is None
    folder.write_table("part-00000.parquet", pa.table({"x": [1, 2]}))
    with pytest.raises(InputError, match="made with different settings"):
        begin_stage(folder, {"seed": 1})
    manifest = finish_stage(folder, {"seed": 0}, {})
    assert begin_stage(folder, {"seed": 0}) == manifest
    assert folder.read_tables("part-*", pa.schema({"x": pa.int64()})).to_pydict() == {"x": [1, 2]}
    log = LineLog(folder, "lines.jsonl")
    log.append({"a": 1})
    log.close()
    assert read_lines(folder, "lines.jsonl") == [{"a": 1}]


@pytest.mark.parametrize(
    "num_bytes, fails_at",
    [(100, "any part"), (100, "completion"), (40 << 20, "later parts"), (40 << 20, "completion")],
)
@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "replaced"])
def test_an_interrupted_upload_leaves_no_file_or_the_old_one(
    store: Store, num_bytes: int, fails_at: str, old: bytes | None
) -> None:
    folder, name = Folder.at(store.uri("broken")) / "rewrite", "part-00000.parquet"
    folder.delete()
    if old is not None:
        folder.write_bytes(name, old)
    before = store.num_failed

    def fails(request: dict) -> bool:
        if not request["PATH_INFO"].endswith(name):
            return False
        query, method = request["QUERY_STRING"], request["REQUEST_METHOD"]
        if method == "PUT" and "partNumber" in query:
            return fails_at in ("any part", "first part" if "partNumber=1&" in f"{query}&" else "later parts")
        return method == "POST" and "uploadId" in query and fails_at == "completion"

    store.fails = fails
    try:
        with pytest.raises(OSError, match="planted"):
            folder.write_bytes(name, bytes(num_bytes))
    finally:
        store.fails = lambda request: False
    assert store.num_failed > before, "the failure occurred"
    assert folder.names() == ([name] if old else [])
    assert folder.exists(name) == bool(old)
    if old:
        assert folder.read_bytes(name) == old
    folder.write_bytes(name, b"again")
    assert folder.read_bytes(name) == b"again"


def test_checkpoints_are_complete_or_absent_and_the_two_newest_stay(store: Store) -> None:
    checkpoints = Checkpoints(Folder.at(store.uri("training")) / "checkpoints")
    assert checkpoints.newest() is None
    for step in (2, 4, 6):
        checkpoints.write(step, 0, lambda folder, step=step: _save(folder, step), lambda: None)
    half = checkpoints.folder / "step-000008" / "state"
    half.write_bytes("weights", b"half")
    newest = checkpoints.newest()
    assert newest is not None and newest.path.endswith("step-000006")
    with local_copy(newest) as folder:
        assert (folder / "state" / "weights").read_text() == "6"
        assert (folder / "latest").read_text() == "state"
    checkpoints.prune()
    selector = fs.FileSelector(checkpoints.folder.path)
    found = checkpoints.folder.filesystem.get_file_info(selector)
    assert sorted(info.base_name for info in found) == ["step-000004", "step-000006"]


def _save(folder: Path, step: int) -> None:
    (folder / "state").mkdir()
    (folder / "state" / "weights").write_text(str(step))
    (folder / "latest").write_text("state")


def test_problems_and_benchmarks_are_read_from_a_store(store: Store) -> None:
    folder = Folder.at(store.uri("data"))
    for number in range(2):
        folder.write_bytes(f"p-{number}.jsonl", json.dumps({"question": "1+1", "answer": str(number)}).encode())
    assert find_files(store.uri("data/p-*.jsonl")) == [store.uri(f"data/p-{number}.jsonl") for number in range(2)]
    assert [record.values["answer"] for record in read_records(store.uri("data/p-1.jsonl"))] == ["1"]
    folder.write_bytes("aime24.jsonl", json.dumps({"question": "1+1", "answer": "2"}).encode())
    for name, settings in (
        (store.uri("data/p-0.jsonl"), Evaluate()),
        ("aime24", Evaluate(data_dir=store.uri("data"))),
    ):
        assert len(read_benchmark(name, settings)) == 1
        assert len(benchmark_digest(name, settings)) == 64
    with pytest.raises(InputError, match=r"no amc23\.jsonl in s3://"):
        read_benchmark("amc23", Evaluate(data_dir=store.uri("data")))


def upload_policy(folder: Folder) -> None:
    for file in POLICY_FOLDER.iterdir():
        folder.write_bytes(file.name, file.read_bytes())


def test_training_loads_a_model_from_a_store(store: Store, cache: Path) -> None:
    from ossft_ray.engines.training.policy_model import load_model

    upload_policy(Folder.at(store.uri("models/trained")))
    model, _ = load_model(Policy(model=store.uri("models/trained")), Train(precision="fp32"))
    assert sum(parameter.numel() for parameter in model.parameters()) > 100_000


def test_a_model_is_downloaded_once_and_again_when_it_changes(store: Store, cache: Path) -> None:
    uri, folder = store.uri("models/tiny"), Folder.at(store.uri("models/tiny"))
    upload_policy(folder)
    assert model_digest(Policy(model=uri)) == model_digest(Policy(model="playground")), (
        "the digest depends on the files alone"
    )
    assert load_chat(Policy(model=uri)).end_of_turn_id == load_chat(Policy(model="playground")).end_of_turn_id
    (without,) = cache.glob("*-without-weights")
    assert not (without / "model.safetensors").exists(), "a driver needs only the tokenizer"
    local = Path(model_path(uri, weights=True))
    assert (local / "model.safetensors").read_bytes() == (POLICY_FOLDER / "model.safetensors").read_bytes()

    def reads_whole_file(request: dict) -> bool:
        """Whether a request reads a whole file; listings and reads of a file's edges only detect changes."""
        is_listing = "list-type" in request.get("QUERY_STRING", "")
        return request["REQUEST_METHOD"] == "GET" and not is_listing and "bytes=" not in request.get("HTTP_RANGE", "")

    store.fails = reads_whole_file
    try:
        assert model_path(uri, weights=True) == str(local)
    finally:
        store.fails = lambda request: False
    folder.write_bytes("model.safetensors", b"other")
    assert Path(model_path(uri, weights=True), "model.safetensors").read_bytes() == b"other"
    assert not list(cache.glob(".partial-*"))


@pytest.mark.parametrize(
    "files, words",
    [
        ([], "holds no config.json"),
        (["config.json", "pytorch_model.bin"], r"pickles \(pytorch_model\.bin\).*save_pretrained"),
    ],
)
def test_a_store_folder_without_a_model_is_refused(store: Store, cache: Path, files: list[str], words: str) -> None:
    folder = Folder.at(store.uri(f"models/{len(files)}"))
    for name in files:
        folder.write_bytes(name, b"{}")
    with pytest.raises(InputError, match=words):
        load_chat(Policy(model=store.uri(f"models/{len(files)}")))


def test_an_unreachable_store_gives_one_line(store: Store) -> None:
    store.fails = lambda request: "refused" in request["PATH_INFO"]
    try:
        with pytest.raises(InputError, match=r"bucket/refused/rewrite cannot be") as caught:
            begin_stage(Folder.at(store.uri("refused")) / "rewrite", {})
    finally:
        store.fails = lambda request: False
    assert "\n" not in str(caught.value)


def test_a_missing_bucket_gives_one_line(store: Store) -> None:
    with pytest.raises(InputError, match=r"other/run/rewrite cannot be written to.*choose another \[run\] output"):
        begin_stage(Folder.at(f"s3://other/run?endpoint_override={store.url}") / "rewrite", {})
