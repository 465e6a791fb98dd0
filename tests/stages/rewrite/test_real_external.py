"""Rewriting by a real `vllm serve` on loopback and by a second engine, both with the playground's policy."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.common.types import PromptTooLong
from ossft_ray.config import Experiment, ExternalAlignment
from ossft_ray.engines.vllm_policy import Sampling
from ossft_ray.policy.chat import load_chat
from ossft_ray.stages.rewrite.server import Answer, ServerModel
from ossft_ray.stages.rewrite.stage import rewrite
from tests.stages.scripted import experiment, rows_by_id

pytestmark = [pytest.mark.long, pytest.mark.engine, pytest.mark.ray, pytest.mark.timeout(1200)]

KEY = "sesame-0123456789"
_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
_ARGUMENTS = "--enforce-eager --no-enable-chunked-prefill --max-num-batched-tokens 8192 --served-model-name teacher"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that asks for `KEY`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--model", str(POLICY_FOLDER), "--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *where, *_ARGUMENTS.split()]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | _CPU, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while not _is_ready(port):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _is_ready(port: int) -> bool:
    with suppress(OSError):
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    return False


def settings(output: Path, **external: Any) -> Experiment:
    rewriting = {
        "stages": ["self", "external"],
        "self_alignment": {"num_samples": 1, "max_tokens": 96},
        "guided_alignment": {"hide_answer": False, "require_derivation": True},
        "external_alignment": {"max_tokens": 96, "max_gap": 0.5, **external},
    }
    return experiment(str(output), 24, rewrite=rewriting)


def rewrite_with(key: str, run: Experiment) -> subprocess.CompletedProcess[str]:
    """`ossft rewrite` with its own Ray, whose workers see the key."""
    file = Path(f"{run.run.output}.toml")
    changed = run.model_dump(mode="json", exclude_unset=True)
    file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in changed.items()))
    command = [sys.executable, "-c", "from ossft_ray.cli import main; main()", "rewrite", "--config", str(file)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"TEACHER": key}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value)


def check_rows(run: Experiment, manifest: dict[str, Any]) -> None:
    """Some responses are kept, and some refused because the policy finds them unlikely."""
    assert manifest["origins"]["external"] > 0 < manifest["reasons"]["external"]["too_far"]
    assert manifest["external"]["requests"] == sum(manifest["reasons"]["external"].values())
    assert manifest["external"]["completion_tokens"] > manifest["external"]["requests"]
    chat = load_chat(run.policy)
    for (row,) in rows_by_id(run).values():
        if row["origin"] == "external":
            assert row["response_token_ids"] == chat.encode_response(row["response"])


def ask(url: str, model: str = "teacher", question: str = "What is 1 + 1?", **request: Any) -> Answer:
    settings = ExternalAlignment(model=model, url=url, api_key_env="TEACHER", request=request)

    async def one() -> Answer:
        server = ServerModel(settings)
        async with server.client:
            return await server.answer([{"role": "user", "content": question}], Sampling(0.0, 1.0, 9), 0, "")

    return asyncio.run(one())


def test_a_server_says_what_it_refuses(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER", KEY)
    assert ask(url).completion_tokens == 9
    with pytest.raises(InputError, match=r"no model nobody \(HTTP 404\)"):
        ask(url, "nobody")
    with pytest.raises(PromptTooLong):
        ask(url, question="1+" * 2000)
    with pytest.raises(InputError, match=r"refuses a request \(HTTP 400\): .*max_model_len"):
        ask(url, max_completion_tokens=10_000)
    with pytest.raises(InputError, match=r"refuses a request \(HTTP 400\): .*top_k"):
        ask(url, top_k=-9)
    monkeypatch.setenv("TEACHER", "another-key-0123")
    with pytest.raises(InputError, match=r"refuses the key in TEACHER \(HTTP 401\)"):
        ask(url)


def test_a_server_rewrites(url: str, tmp_path: Path) -> None:
    run = settings(tmp_path / "run", url=url, model="teacher", api_key_env="TEACHER")
    done = rewrite_with(KEY, run)
    assert done.returncode == 0, done.stderr
    check_rows(run, json.loads((tmp_path / "run/rewrite/manifest.json").read_text()))
    written = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_a_second_engine_rewrites(tmp_path: Path, ray_cluster: None) -> None:
    run = settings(tmp_path / "run", model=str(POLICY_FOLDER), engine={"max_model_len": 1024})
    check_rows(run, rewrite(run))
