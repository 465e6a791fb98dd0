"""Pushes to the Hub: the Hub's client against a local server that records the requests."""

import base64
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from ossft_ray.cli import main
from tests.export.runs import write_run


@dataclass
class Hub:
    """Answers a client that creates a repository and commits small files, as the Hub does."""

    url: str = ""
    refusal: tuple[int, str] | None = None  # status and message for everything
    requests: list[tuple[str, Any]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def answer(self, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        self.tokens.add(token)
        lines = [json.loads(line) for line in body.splitlines() if line]
        self.requests.append((path, lines))
        if self.refusal is not None:
            return self.refusal[0], {"error": self.refusal[1]}
        if path == "/api/repos/create":
            return 200, {"url": f"{self.url}/datasets/owner/name"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in lines[0]["files"]]
            return 200, {"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]}
        assert "/commit/" in path, path
        return 200, {"commitUrl": f"{self.url}/datasets/owner/name/commit/0", "commitOid": "0", "success": True}

    def committed(self) -> dict[str, bytes]:
        (lines,) = [lines for path, lines in self.requests if "/commit/" in path]
        values = [line["value"] for line in lines if line["key"] == "file"]
        return {value["path"]: base64.b64decode(value["content"]) for value in values}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = hub.answer(self.path, body, self.headers.get("Authorization"))
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(tmp_path: Path) -> str:
    return write_run(str(tmp_path / "run"))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ossft", "export", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


@pytest.mark.parametrize("private", [False, True])
def test_a_push_uploads_the_export_and_nothing_else(
    tmp_path: Path,
    run: str,
    hub: Hub,
    private: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = [run, str(out), "--format", "trl", "--push-to-hub", "owner/name", *(["--private"] if private else [])]
    assert command(monkeypatch, *arguments) == 0
    assert f"pushed: {hub.url}/datasets/owner/name" in capsys.readouterr().out
    ((path, (created,)), *_) = hub.requests
    assert path == "/api/repos/create"
    assert (created["organization"], created["name"], created["type"]) == ("owner", "name", "dataset")
    assert created.get("visibility") == ("private" if private else None), "without --private, the owner's default"
    assert hub.committed() == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert hub.tokens == {"Bearer hf_test"}
    assert 'load_dataset("owner/name", split="train")' in (out / "README.md").read_text()


def test_other_files_in_the_folder_are_not_uploaded(
    tmp_path: Path, run: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert command(monkeypatch, run, str(out), "--format", "trl") == 0
    (out / "notes.txt").write_text("mine")
    (out / "trained").mkdir()
    (out / "trained" / "README.md").write_text("mine")
    arguments = [run, str(out), "--format", "sharegpt", "--overwrite", "--push-to-hub", "owner/name"]
    assert command(monkeypatch, *arguments) == 0
    assert set(hub.committed()) == {
        "README.md",
        "dataset_info.json",
        *(path.name for path in out.glob("train-*.jsonl")),
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    "refusal, code, words",
    [
        ((401, "Invalid credentials"), 2, "the Hub does not know the token (401); run `hf auth login`"),
        ((403, "Forbidden"), 2, "the Hub does not let this token write there (403)"),
        ((500, "Out of order"), 1, "failed: Server error '500 Internal Server Error'"),
    ],
    ids=["unknown token", "read-only token", "broken Hub"],
)
def test_a_refusal_of_the_hub_is_one_line(
    tmp_path: Path,
    run: str,
    hub: Hub,
    refusal: tuple[int, str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.refusal = refusal
    out = tmp_path / "out"
    assert command(monkeypatch, run, str(out), "--format", "trl", "--push-to-hub", "owner/name") == code
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith("error: --push-to-hub owner/name: "), line
    assert words in line
    assert f"the export is in {out}" in line
    assert (out / "README.md").exists()


def test_an_unreachable_hub_is_one_line(
    tmp_path: Path, run: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert command(monkeypatch, run, str(tmp_path / "out"), "--format", "trl", "--push-to-hub", "owner/name") == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "the upload to http://127.0.0.1:9 failed: " in line


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--push-to-hub", "name"], "--push-to-hub name: write it as OWNER/NAME"),
        (["--push-to-hub", "a/b/c"], "--push-to-hub a/b/c: write it as OWNER/NAME"),
        (["--private"], "--private needs --push-to-hub; see `ossft export --help`"),
        (["--push-to-hub", "owner/name"], "HF_HUB_OFFLINE is set; unset it to reach the Hub"),
    ],
)
def test_refusals_before_anything_is_written(
    tmp_path: Path,
    run: str,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert command(monkeypatch, run, str(tmp_path / "out"), "--format", "trl", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_push_without_a_login_is_refused(
    tmp_path: Path, run: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    assert command(monkeypatch, run, str(tmp_path / "out"), "--format", "trl", "--push-to-hub", "owner/name") == 2
    assert "nobody is logged in; run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err
    assert hub.requests == []
    assert not (tmp_path / "out").exists()
