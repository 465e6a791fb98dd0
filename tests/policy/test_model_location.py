"""The location of a model, and its digest, which depends on its files and not on where they are."""

import shutil
from pathlib import Path

import pytest

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.config import Policy
from ossft_ray.policy.model_location import model_digest, model_path


def test_names_of_models() -> None:
    assert model_path("playground") == str(POLICY_FOLDER)
    assert model_path(str(POLICY_FOLDER)) == str(POLICY_FOLDER)
    assert model_path("Qwen/Qwen2.5-Math-7B") == "Qwen/Qwen2.5-Math-7B"


def test_the_digest_depends_on_the_files_not_their_location(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(POLICY_FOLDER, copy)
    before = model_digest(Policy(model="playground"))
    assert model_digest(Policy(model=str(copy))) == before
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert model_digest(Policy(model=str(copy))) != before


@pytest.mark.parametrize("revision, digest", [(None, "org/model@main"), ("v2", "org/model@v2")])
def test_the_digest_of_a_hub_model_is_its_revision(revision: str | None, digest: str) -> None:
    assert model_digest(Policy(model="org/model", revision=revision)) == digest
