"""Each node downloads a Hub model once, even if several policies and training workers start at the same time.

The Hub is a small server here, and its clients are the real ones of transformers and vLLM. The processes of one node
share the cache that `HF_HOME` names.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy
from ossft_ray.policy.model_location import fetch_weights

REPO, COMMIT, WEIGHTS = "someone/tiny", "0123456789abcdef" * 2 + "01234567", "model.safetensors"
SECONDS_OF_WEIGHTS = 3.0  # so that all processes ask during the first download

# The calls of a rollout worker before it starts its engine, those of a training worker, and vLLM's own
BEGIN = f"""
import sys, time
from ossft_ray.config import Policy, Train
from ossft_ray.policy.chat import load_chat
from ossft_ray.engines.training.policy_model import load_model
from ossft_ray.policy.model_location import fetch_weights
from huggingface_hub import snapshot_download
print("ready", flush=True)
sys.stdin.readline()
policy = Policy(model="{REPO}")
commit = load_chat(policy).commit
assert commit == "{COMMIT}", commit
fetch_weights(policy)
snapshot_download("{REPO}", allow_patterns=["*.safetensors"], local_files_only=True)
load_model(policy, Train())
snapshot_download("{REPO}", allow_patterns=["*.safetensors"])
"""


class Hub(BaseHTTPRequestHandler):
    downloads: Counter[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{REPO}/revision/") or path == f"/api/models/{REPO}":
            names = [{"rfilename": file.name} for file in sorted(POLICY_FOLDER.iterdir())]
            body = json.dumps({"id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": names, "tags": []}).encode()
            self._send(200, body, {"Content-Type": "application/json"}, with_body)
            return
        file = POLICY_FOLDER / path.rpartition("/")[2]
        if not path.startswith(f"/{REPO}/resolve/") or not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, with_body)
            return
        content = file.read_bytes()
        if with_body:
            self.downloads[file.name] += 1
            time.sleep(SECONDS_OF_WEIGHTS if file.name == WEIGHTS else 0)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, Counter[str]]]:
    downloads: Counter[str] = Counter()
    handler = type("CountingHub", (Hub,), {"downloads": downloads})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", downloads
        server.shutdown()


@contextmanager
def begin(endpoint: str, cache: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", BEGIN], text=True, env=environment, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.long
def test_processes_of_a_node_download_a_model_once(hub: tuple[str, Counter[str]], tmp_path: Path) -> None:
    endpoint, downloads = hub
    nodes = ["first", "first", "second"]  # three processes on two nodes
    with ExitStack() as running:
        begun = [running.enter_context(begin(endpoint, tmp_path / node)) for node in nodes]
        for process in begun:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in begun:  # all at once
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in begun:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors[-3000:]
    assert downloads[WEIGHTS] == 2, "once for each node"
    assert {"config.json", "tokenizer.json"} <= downloads.keys()
    assert set(downloads.values()) == {2}, downloads


def test_unavailable_weights_are_refused(tmp_path: Path) -> None:
    policy = Policy(model=REPO, engine={"download_dir": str(tmp_path)})  # tests have no network
    with pytest.raises(InputError, match=f"the weights of {REPO} cannot be downloaded to .*: .*; allow access"):
        fetch_weights(policy)
    fetch_weights(policy.model_copy(update={"engine": {"load_format": "dummy"}}))
