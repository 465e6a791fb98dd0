"""Exports: the columns of each format, refusals, and failures, which leave nothing that looks like an export."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from pyarrow import fs

from ossft_ray.cli import main
from ossft_ray.common.errors import InputError
from ossft_ray.common.storage import Folder
from ossft_ray.export import data_file as export_data_file
from ossft_ray.export import export
from ossft_ray.export.formats import FORMATS
from tests.export.runs import ORIGINS, TEXTS, example, write_run

SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."


@pytest.fixture
def run(tmp_path: Path) -> str:
    return write_run(str(tmp_path / "run"))


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"What is 1 + 1? ({number})"}]


def trl_row(number: int, origin: str) -> dict[str, Any]:
    return {
        "prompt": messages(number),
        "completion": [{"role": "assistant", "content": TEXTS[origin]}],
        "problem_id": f"p{number}",
        "origin": origin,
    }


def verl_row(number: int, origin: str) -> dict[str, Any]:
    response = {"role": "assistant", "content": TEXTS[origin]}
    return {"messages": [*messages(number), response], "problem_id": f"p{number}", "origin": origin}


def sharegpt_row(number: int, origin: str) -> dict[str, Any]:
    turns = [("system", SYSTEM), ("human", f"What is 1 + 1? ({number})"), ("gpt", TEXTS[origin])]
    conversations = [{"from": speaker, "value": value} for speaker, value in turns]
    return {"conversations": conversations, "problem_id": f"p{number}", "origin": origin}


ROWS: dict[str, Callable[[int, str], dict[str, Any]]] = {
    "trl": trl_row,
    "verl": verl_row,
    "sharegpt": sharegpt_row,
}


def read(folder: Path) -> list[dict[str, Any]]:
    file = data_file(folder)
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    return pq.read_table(file).to_pylist()


def data_file(folder: Path) -> Path:
    (file,) = folder.glob("train-????????.*")
    return file


@pytest.mark.parametrize("format", FORMATS)
def test_rows_have_the_trainers_columns(tmp_path: Path, run: str, format: str) -> None:
    exported = export(run, format, str(tmp_path / "out"))
    assert read(tmp_path / "out") == [ROWS[format](number, origin) for number, origin in enumerate(ORIGINS)]
    assert exported.num_rows == 4
    assert exported.origins == {"self": 2, "guided": 1, "expert": 1}
    assert sorted(exported.files) == sorted(path.name for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_the_folder_loads_as_a_data_set(tmp_path: Path, run: str, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    export(run, format, str(tmp_path / "out"))
    (tmp_path / "out" / "trained").mkdir()
    (tmp_path / "out" / "trained" / "metrics.json").write_text("{}")  # the card says which files are the data
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.to_list() == [ROWS[format](number, origin) for number, origin in enumerate(ORIGINS)]


def test_datasets_does_not_confuse_two_exports(tmp_path: Path, run: str) -> None:
    def load(folder: Path) -> list[str]:
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        return list(rows["problem_id"])

    export(run, "trl", str(tmp_path / "out"))
    assert load(tmp_path / "out") == ["p0", "p1", "p2", "p3"]
    export(run, "trl", str(tmp_path / "out"), origins=("guided",), overwrite=True)
    assert load(tmp_path / "out") == ["p1"]
    export(run, "trl", str(tmp_path / "elsewhere" / "out"), origins=("expert",))
    assert load(tmp_path / "elsewhere" / "out") == ["p2"]


@pytest.mark.parametrize(
    "origins, kept",
    [((), [0, 1, 2, 3]), (("self",), [0, 3]), (("guided", "expert"), [1, 2])],
)
def test_origins_are_selected(tmp_path: Path, run: str, origins: tuple[str, ...], kept: list[int]) -> None:
    export(run, "trl", str(tmp_path / "out"), origins=origins)
    assert [row["problem_id"] for row in read(tmp_path / "out")] == [f"p{number}" for number in kept]
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("Only examples of these origins" in card) is bool(origins)


def test_rows_are_written_in_batches(tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_data_file, "_MIN_BATCH_ROWS", 1)
    export(run, "trl", str(tmp_path / "out"))
    assert pq.ParquetFile(data_file(tmp_path / "out")).num_row_groups == 2, "one for each part"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filesystem behind `store://` URIs that is not this machine's disk."""
    at = Folder.at

    def find(uri: str) -> Folder:
        name = uri.removeprefix("store://")
        return at(uri) if name == uri else Folder(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), name)

    monkeypatch.setattr(Folder, "at", find)
    return tmp_path


def test_an_export_from_and_to_an_object_store(store: Path, run: str) -> None:
    exported = export("store://run", "trl", "store://out/")
    assert len(read(store / "out")) == 4
    assert sorted(path.name for path in (store / "out").iterdir()) == sorted(exported.files)
    card = (store / "out" / "README.md").read_text()
    location = f"store://out/{data_file(store / 'out').name}"
    assert f'load_dataset("parquet", data_files="{location}", split="train")' in card
    with pytest.raises(InputError, match="is not on a local disk; export into a local folder first"):
        export("store://run", "trl", "store://other", push_to_hub="owner/name")


def test_a_failed_write_leaves_no_data_in_a_store(store: Path) -> None:
    bad = example(1, "self", prompt=[{"role": "tool", "content": "x"}])
    run = write_run(str(store / "bad"), [[example(0, "self"), bad]])
    with pytest.raises(InputError, match="problem p1: ShareGPT has no speaker"):
        export(run, "sharegpt", "store://out")
    assert list((store / "out").iterdir()) == []


UNFINISHED = "is not complete (4 of 6 problems so far); let `ossft rewrite` finish it, or pass --partial"


def test_an_incomplete_rewrite_is_refused_or_marked_on_the_card(tmp_path: Path) -> None:
    run, out = write_run(str(tmp_path / "run"), num_open=2), tmp_path / "out"
    with pytest.raises(InputError, match=r"rewrite: is not complete") as refused:
        export(run, "trl", str(out))
    assert UNFINISHED in str(refused.value)
    assert not out.exists()
    assert export(run, "trl", str(out), partial=True).num_rows == 4
    assert "**The rewriting was not complete** when this was exported: 4 of 6" in (out / "README.md").read_text()


def test_an_empty_export_writes_nothing(tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), [[example(0, "self")]])
    with pytest.raises(InputError, match="has no examples of origin guided or expert"):
        export(run, "trl", str(tmp_path / "out"), origins=("guided", "expert"))
    assert not (tmp_path / "out").exists()


def test_a_failed_write_leaves_no_data(tmp_path: Path, run: str) -> None:
    bad = write_run(str(tmp_path / "bad"), [[example(0, "self", prompt=[{"role": "tool", "content": "x"}])]])
    with pytest.raises(InputError, match="problem p0: ShareGPT has no speaker for the role 'tool'"):
        export(bad, "sharegpt", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def fill_with(*names: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name in names:
            (folder / name).write_text("mine")

    return fill


@pytest.mark.parametrize(
    "fill, overwrite, words",
    [
        (fill_with("notes.txt"), False, "is not empty; give another folder, or --overwrite"),
        (fill_with("notes.txt"), True, "holds files that are not from an export; give another folder"),
        (
            fill_with("dataset_info.json", "train-00000-of-00001.parquet"),
            True,
            "holds files that are not from an export",
        ),
        (fill_with("README.md", "dataset_info.json"), True, "holds files that are not from an export"),
        (lambda folder: (folder / "data").mkdir(), False, "is not empty"),
    ],
    ids=["a file", "a file, overwriting", "another's data", "another's README", "a folder"],
)
def test_a_folder_in_use_is_refused(
    tmp_path: Path, run: str, fill: Callable[[Path], None], overwrite: bool, words: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    fill(out)
    before = {path.name: path.read_text() for path in out.iterdir() if path.is_file()}
    with pytest.raises(InputError, match=words):
        export(run, "trl", str(out), overwrite=overwrite)
    assert {path.name: path.read_text() for path in out.iterdir() if path.is_file()} == before


def test_an_earlier_export_is_replaced(tmp_path: Path, run: str) -> None:
    out = tmp_path / "out"
    export(run, "sharegpt", str(out))
    (out / "notes.txt").write_text("mine")
    exported = export(run, "trl", str(out), overwrite=True)
    assert {path.name for path in out.iterdir()} == {*exported.files, "notes.txt"}


def test_an_export_that_was_killed_is_replaced(tmp_path: Path, run: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-0123abcd.jsonl").write_text("half")
    (out / ".train.0123.tmp").write_text("half")
    (out / "dataset_info.json").write_text("half")
    exported = export(run, "trl", str(out), overwrite=True)
    assert {path.name for path in out.iterdir()} == set(exported.files)


def front_matter(folder: Path) -> dict[str, Any]:
    _, matter, _ = (folder / "README.md").read_text().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(matter)
    return found


def test_the_card_describes_how_the_data_was_made(tmp_path: Path, run: str) -> None:
    out = tmp_path / "out"
    export(run, "trl", str(out), license="cc-by-4.0")
    matter, card = front_matter(out), (out / "README.md").read_text()
    assert matter["license"] == "cc-by-4.0"
    assert matter["size_categories"] == ["n<1K"]
    assert matter["task_categories"] == ["text-generation"]
    assert matter["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": data_file(out).name}]}
    ]
    fingerprint = json.loads((Path(run) / "config.json").read_text())["fingerprints"]["rewrite"]
    for words in (
        "| rows of the input | 5 |",
        "| rejected: no_answer | 1 |",
        "| the policy's own solution (`self`) | 2 |",
        "| written with the expert's solution in view (`guided`) | 1 |",
        "| the expert's solution (`expert`) | 1 |",
        "| dropped: no correct solution | 0 |",
        "| tokens generated | 56 |",
        "| policy | `playground` |",
        "| self-alignment | `num_samples 8, temperature 1.0, top_p 1.0, max_tokens 2048` |",
        "| source | `problems.jsonl, owner/set` |",
        "| overlap with benchmarks | `aime24 2 (report)` |",
        f"| fingerprint | `{fingerprint}` |",
        "transformers ",
        SYSTEM,
        "- [TRL](https://huggingface.co/docs/trl/sft_trainer)",
        "`cc-by-4.0`, as given",
        "arXiv:2509.15157",
    ):
        assert words in card
    assert "/home/somebody" not in card


def test_a_card_without_a_licence_says_so(tmp_path: Path, run: str) -> None:
    export(run, "sharegpt", str(tmp_path / "out"))
    assert front_matter(tmp_path / "out")["license"] == "unknown"
    assert "Not known: none was given" in (tmp_path / "out" / "README.md").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"  - path: {data_file(tmp_path / 'out').name}\n" in card
    assert "field_messages: conversations" in card


def test_llama_factory_finds_the_data(tmp_path: Path, run: str) -> None:
    export(run, "sharegpt", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text()) == {
        "train": {
            "file_name": data_file(tmp_path / "out").name,
            "formatting": "sharegpt",
            "columns": {"messages": "conversations"},
        }
    }


def test_a_run_without_its_config_is_exported_and_its_card_says_so(tmp_path: Path, run: str) -> None:
    (Path(run) / "config.json").unlink()
    export(run, "trl", str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its settings are not known" in card and "on-policy for `playground`" in card


def test_an_export_does_not_need_the_policy(tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), model=str(tmp_path / "gone"))
    export(run, "trl", str(tmp_path / "out"))
    assert "| policy | `gone` |" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_shows_a_chat_template_that_the_run_gave_the_policy(tmp_path: Path) -> None:
    template = "{{ messages }} ``` {{ bos_token }}"
    run = write_run(str(tmp_path / "run"), chat_template=template)
    export(run, "trl", str(tmp_path / "out"))
    assert f"````text\n{template}\n````" in (tmp_path / "out" / "README.md").read_text()


def test_the_command(
    tmp_path: Path, run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "my out")
    arguments = ["export", run, "--format", "verl", out, "--origin", "self", "--license", "mit"]
    monkeypatch.setattr(sys, "argv", ["ossft", *arguments])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        f"2 examples (2 self) in {out}: {data_file(Path(out)).name}, README.md"
    ]
