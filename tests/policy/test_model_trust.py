"""Models run no code without permission, pickles are refused, and every loader of a Hub model gets the same commit."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from ossft_ray.common.errors import InputError
from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy, Train
from ossft_ray.engines.training.policy_model import load_model
from ossft_ray.engines.vllm_policy import check_engine_settings, engine_settings
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_files import check_weights

CODE = """
import os, pathlib
from transformers import Qwen2Config
pathlib.Path(__file__).with_name("ran").touch()
pathlib.Path(os.environ["OSSFT_TEST_RAN"]).touch()
class OwnConfig(Qwen2Config):
    model_type = "own"
"""


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The playground's policy with its own configuration class, which leaves a trace when it runs."""
    folder = tmp_path / "model"
    shutil.copytree(POLICY_FOLDER, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    monkeypatch.setenv("OSSFT_TEST_RAN", str(tmp_path / "ran"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


@pytest.mark.thorough
def test_a_models_own_code_is_refused(with_code: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"its own Python code.*set \[policy\] trust_remote_code = true") as caught:
        load_chat(Policy(model=str(with_code)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_models_own_code_runs_on_request(with_code: Path, tmp_path: Path) -> None:
    policy = Policy(model=str(with_code), trust_remote_code=True)
    chat = load_chat(policy)
    assert (tmp_path / "ran").exists()
    assert engine_settings(policy, chat)["trust_remote_code"] is True


def test_vllm_gets_the_same_settings() -> None:
    policy = Policy(model="playground", revision="v1")
    arguments = engine_settings(policy, load_chat(policy))
    assert arguments["trust_remote_code"] is False
    assert {arguments[key] for key in ("revision", "tokenizer_revision", "code_revision")} == {"v1"}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"trust_remote_code": True}, r"\[policy\.engine\] trust_remote_code: set \[policy\] trust_remote_code"),
        ({"trust_remote_code": False}, r"set \[policy\] trust_remote_code"),
        ({"load_format": "pt"}, r"load_format: 'pt' loads pickles"),
    ],
)
def test_engine_settings_cannot_bypass_the_check(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_engine_settings(settings)


@pytest.mark.parametrize(
    "names, refused",
    [
        (["model.safetensors"], False),
        (["model-00001-of-00002.safetensors", "pytorch_model.bin", "training_args.bin"], False),
        (["config.json", "tokenizer.json"], False),
        (["pytorch_model.bin"], True),
        (["model.pt"], True),
        (["adapter_model.bin", "adapter_config.json"], True),
    ],
)
def test_weights_must_be_safetensors(names: list[str], refused: bool) -> None:
    if not refused:
        return check_weights(names, "x")
    with pytest.raises(InputError, match=r"\[policy\] model: x holds its weights only as pickles \(.*save_pretrained"):
        check_weights(names, "x")
    return None


@pytest.mark.parametrize("key", ["model", "lora"])
def test_a_folder_of_pickles_is_refused(key: str, tmp_path: Path) -> None:
    shutil.copytree(POLICY_FOLDER, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    (tmp_path / "model" / "adapter_config.json").write_text('{"r": 8}')
    settings = {"model": "playground"} | {key: str(tmp_path / "model")}
    with pytest.raises(InputError, match=rf"\[policy\] {key}: .* pickles \(pytorch_model\.bin\)"):
        load_chat(Policy(**settings))
    if key == "model":
        with pytest.raises(OSError, match="safetensors"):
            load_model(Policy(**settings), Train())


# A row: the commit that the Hub's main branch moves to first, the requested revision, the run's folder, whether the run
# starts over, and the expected commit.
A, B = "a" * 40, "b" * 40
ON_THE_HUB = [
    (A, None, "first", False, A),
    (A, "v1", "second", False, B),
    (A, B, "third", False, B),
    (B, None, "first", False, A),  # the branch has moved since the run began
    (B, None, "other", False, B),
    (B, None, "first", True, B),
    (A, None, "first", False, B),
]
EACH = """
    import json, sys
    from pathlib import Path
    from ossft_ray.config import resolve
    from ossft_ray.policy.chat import load_chat
    from ossft_ray.policy.model_location import model_digest
    from ossft_ray.engines.training.policy_model import load_model
    from ossft_ray.run_folder.provenance import pin_revision, write_config

    for branch, asked, output, start_over, _ in json.loads(sys.argv[1]):
        Path("hub/models--owner--tiny/refs/main").write_text(branch)
        policy = {"model": "owner/tiny", "revision": asked}
        experiment = resolve({"run": {"output": output}, "policy": policy, "data": {"path": "p.jsonl"}})
        pinned = pin_revision(experiment, start_over)
        write_config(pinned)
        model, _ = load_model(pinned.policy, pinned.train)
        config = json.loads(Path(output, "config.json").read_text())
        print(json.dumps({
            "config.json": config["experiment"]["policy"]["revision"],
            "noted": config["revisions"][f"owner/tiny@{asked or 'main'}"],
            "digest": model_digest(pinned.policy),
            "tokenizer": load_chat(pinned.policy).commit,
            "weights": ("a" if model.model.norm.weight.any() else "b") * 40,
        }))
"""


@pytest.mark.thorough
def test_a_run_loads_the_commit_that_it_began_with(tmp_path: Path) -> None:
    """From a Hub cache with two revisions of a model that have different weights."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    for name, commit in (("main", A), ("v1", B)):
        shutil.copytree(POLICY_FOLDER, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / name).write_text(commit)
    file = repository / "snapshots" / B / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"].zero_()
    save_file(weights, file, {"format": "pt"})
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(EACH), json.dumps(ON_THE_HUB)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(ON_THE_HUB), done.stderr
    for row, (*_, commit) in zip(found, ON_THE_HUB, strict=True):
        assert row.pop("digest") == f"owner/tiny@{commit}"
        assert set(row.values()) == {commit}, row
