"""A stage's folder: the stage begins, resumes and completes, or refuses other inputs."""

from pathlib import Path
from typing import Any

import pytest

from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.run_folder.stage_folder import begin_stage, fingerprint, finish_stage

INPUTS = {"run": {"seed": 0}, "rewrite": {"stages": ["self"], "exhaustive": False}}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "run")) / "rewrite"


def test_a_stage_begins_resumes_and_completes(folder: Folder) -> None:
    assert begin_stage(folder, INPUTS) is None
    folder.write_bytes("part-00000.parquet", b"kept")
    assert begin_stage(folder, INPUTS) is None, "the same command resumes"
    assert folder.exists("part-00000.parquet")
    manifest = finish_stage(folder, INPUTS, {"problems": 3})
    assert manifest == {"problems": 3, "fingerprint": fingerprint(INPUTS), "complete": True}
    assert begin_stage(folder, INPUTS) == manifest
    assert folder.read_json("manifest.json") == manifest


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"run": {"seed": 1}, "rewrite": INPUTS["rewrite"]}, ["run.seed was 0, is now 1"]),
        (
            {"run": {"seed": 1}, "rewrite": {"stages": [], "exhaustive": False}},
            ['rewrite.stages was ["self"], is now []', "run.seed was 0, is now 1"],
        ),
        ({**INPUTS, "verify": {"kind": "math"}}, ['verify was not set, is now {"kind": "math"}']),
        ({"run": {"seed": 0}}, ["rewrite was {"]),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_other_inputs_are_refused_with_the_keys_named(
    folder: Folder, changed: dict[str, Any], words: list[str], complete: bool
) -> None:
    begin_stage(folder, INPUTS)
    folder.write_bytes("part-00000.parquet", b"kept")
    if complete:
        finish_stage(folder, INPUTS, {})
    with pytest.raises(InputError) as caught:
        begin_stage(folder, changed)
    for word in [*words, folder.path, "--start-over"]:
        assert word in str(caught.value)
    assert "exhaustive was" not in str(caught.value), "keys that are equal are not named"
    assert folder.exists("part-00000.parquet"), "a refusal costs nothing"


def test_digests_are_put_into_words(folder: Folder) -> None:
    begin_stage(folder, {"rewrite": "0a1b", "model": "2c3d", "seed": 0})
    with pytest.raises(InputError) as caught:
        begin_stage(folder, {"rewrite": "4e5f", "model": "6071", "seed": 0}, elsewhere="Use another output with A")
    assert str(caught.value) == (
        f"{folder.path} was made with different settings: the model has changed since; the examples have changed "
        "since. Use another output with A, or --start-over to redo it."
    )


def test_start_over_discards_the_folder(folder: Folder) -> None:
    begin_stage(folder, INPUTS)
    folder.write_bytes("part-00000.parquet", b"old")
    finish_stage(folder, INPUTS, {})
    assert begin_stage(folder, {"run": {"seed": 1}}, start_over=True) is None
    assert folder.names() == ["inputs.json"]
    assert folder.read_json("inputs.json") == {"run": {"seed": 1}}


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written to"):
        begin_stage(Folder.at(str(tmp_path / "file")) / "rewrite", INPUTS)


@pytest.mark.parametrize(
    "first, second, equal",
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),
        ({"a": (1, 2)}, {"a": [1, 2]}, True),
        ({"a": None}, {}, False),
    ],
)
def test_fingerprints_are_equal_exactly_when_the_inputs_are(
    first: dict[str, Any], second: dict[str, Any], equal: bool
) -> None:
    assert (fingerprint(first) == fingerprint(second)) is equal


def test_fingerprints_stay_the_same_from_release_to_release() -> None:
    # a constant: with another value, every finished run would be refused
    expected = "301ae413f731fdece829481e3627ba355e33307d68972174f405d0fa59766743"
    assert fingerprint({"run": {"seed": 0}, "name": "é"}) == expected
