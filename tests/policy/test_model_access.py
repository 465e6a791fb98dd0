"""Access to models: in folders, and on a server on this machine that answers as the Hub does."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ossft_ray.config import Policy
from ossft_ray.policy.model_access import hub_refusal, model_refusal

ANSWERS: dict[str, tuple[int, dict[str, str]]] = {
    "open/model": (200, {"ETag": '"1"', "X-Repo-Commit": "c0ffee", "Content-Length": "0"}),
    "gated/model": (403, {"X-Error-Code": "GatedRepo"}),
    "no/model": (401, {"X-Error-Code": "RepoNotFound"}),
    "other/revision": (404, {"X-Error-Code": "RevisionNotFound"}),
    "no/config": (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "c0ffee"}),
    "broken/hub": (500, {}),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status, headers = ANSWERS["/".join(self.path.split("/")[1:3])]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.mark.parametrize(
    "name, words",
    [
        ("open/model", None),
        ("gated/model", "is gated, and this node has no access; accept its licence"),
        ("no/model", "no such model, or it is private"),
        ("other/revision", "has no revision 'v1'"),
        ("no/config", "holds no config.json"),
        ("broken/hub", "this node cannot reach the Hub: "),
    ],
)
def test_answers_of_the_hub(hub: str, name: str, words: str | None) -> None:
    refusal = hub_refusal(name, "v1", endpoint=hub)
    if words is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.startswith(f"[policy] model: {name}") and words in refusal and "\n" not in refusal


def test_an_unreachable_hub_gives_a_refusal(hub: str) -> None:
    refusal = hub_refusal("open/model", endpoint="http://127.0.0.1:9")
    assert refusal is not None and "this node cannot reach the Hub: " in refusal


@pytest.mark.parametrize("is_offline", [True, False])
def test_a_cached_model_needs_no_hub(hub: str, monkeypatch: pytest.MonkeyPatch, is_offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
    assert hub_refusal("broken/hub", endpoint=hub) is not None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    assert hub_refusal("broken/hub", endpoint=hub) is None


@pytest.mark.parametrize(
    "files, words",
    [
        (["config.json", "model.safetensors"], None),
        (["config.json"], "holds no *.safetensors here"),
        ([], "holds no config.json"),
        (None, "make it available on every node"),
    ],
)
def test_folders(tmp_path: Path, files: list[str] | None, words: str | None) -> None:
    folder = tmp_path / "model"
    for name in files or []:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    if files == []:
        folder.mkdir()
    refusal = model_refusal(Policy(model=str(folder)))
    assert refusal is None if words is None else words in str(refusal)


def test_the_playground_is_always_available() -> None:
    assert model_refusal(Policy(model="playground")) is None
