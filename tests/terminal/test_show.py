"""`ossft show` of a finished run, a run under way, and odd rows; and what it refuses."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ossft_ray.common.schema import DROPPED_SCHEMA, to_table
from ossft_ray.common.storage import Folder
from ossft_ray.config import Policy
from ossft_ray.policy.chat import load_chat
from ossft_ray.run_folder.provenance import write_config
from ossft_ray.terminal import bars
from ossft_ray.terminal.show import escape_controls
from tests.export.runs import CHAT, TEXTS, attempt, example, settings, write_run


@pytest.fixture
def run(tmp_path: Path) -> str:
    return write_run(str(tmp_path / "run"))


@pytest.fixture
def shown(command: Callable[[str], Callable[..., str]]) -> Callable[..., str]:
    return command("show")


def shown_ids(text: str) -> list[str]:
    return [line.split()[2] for line in text.splitlines() if line.startswith("== problem")]


@pytest.mark.parametrize(
    "options, ids",
    [
        ([], ["p0", "p1", "p2"]),
        (["-n", "1"], ["p0"]),
        (["-n", "9"], ["p0", "p1", "p2", "p3"]),
        (["--origin", "self"], ["p0", "p3"]),
        (["--origin", "self", "-n", "1"], ["p0"]),
        (["--origin", "expert"], ["p2"]),
        (["--problem", "p3"], ["p3"]),
    ],
)
def test_rows_are_chosen_in_order(run: str, shown: Any, options: list[str], ids: list[str]) -> None:
    assert shown_ids(shown(run, *options)) == ids


def test_a_row(run: str, shown: Any) -> None:
    assert shown(run, "-n", "1").splitlines() == [
        f"{run}: 4 problems (2 self, 1 guided, 1 expert)",
        "",
        "== problem p0    origin self    policy playground",
        "-- question",
        "What is 1 + 1? (0)",
        "-- answer",
        "2",
        "-- expert solution",
        TEXTS["expert"],
        "-- kept response",
        *TEXTS["self"].split("\n"),
        "-- 2 attempts (self: 1 wrong, 1 correct)",
    ]


def test_attempts(run: str, shown: Any) -> None:
    text = shown(run, "-n", "1", "--attempts")
    *_, table = text.partition("-- 2 attempts\n")
    assert table.splitlines() == [
        "-- attempt self/0: wrong, 7 tokens, stop",
        "no",
        "-- attempt self/1: correct, 7 tokens, stop",
        *TEXTS["self"].split("\n"),
    ]
    *_, without_texts = shown(run, "--origin", "expert", "--attempts").partition("-- 2 attempts\n")
    assert without_texts.splitlines() == [
        "-- attempt self/0: truncated, 7 tokens, stop",
        "-- attempt guided/0: copies_reference, 7 tokens, stop",
    ]


def test_the_prompt_as_the_template_renders_it(run: str, shown: Any) -> None:
    row = example(0, "self")
    text = shown(run, "-n", "1", "--prompt")
    rendered = CHAT.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    assert f"-- rendered prompt\n{rendered}\n" in text
    *_, tokens = text.partition(f"-- {len(CHAT.render(row['prompt']))} tokens of the prompt\n")
    assert tokens.startswith('1 "<|im_start|>"')


def test_token_ids_with_their_pieces(run: str, shown: Any) -> None:
    token_ids = example(0, "self")["response_token_ids"]
    *_, tokens = shown(run, "-n", "1", "--tokens").partition(f"-- {len(token_ids)} tokens of the response\n")
    lines = tokens.splitlines()
    assert len(lines) == 2, "a new line after the piece that holds one"
    assert lines[0].endswith(' "2"  16 "."  201 "\\n"')
    assert lines[1].endswith('"}"  223 " "  130 "Ã"  105 "©"  2 "<|im_end|>"'), "halves of é, by the tokenizer's names"
    assert [int(word) for word in tokens.split() if word.isdigit()] == token_ids


def test_a_prompt_needs_the_policy(tmp_path: Path, shown: Any) -> None:
    run = write_run(str(tmp_path / "run"), model=str(tmp_path / "gone"))
    assert shown_ids(shown(run, "-n", "1")) == ["p0"]
    assert "[policy] model: no model folder at" in shown(run, "-n", "1", "--prompt", code=2)


def test_a_run_without_config_uses_the_policy_named_in_its_rows(run: str, shown: Any) -> None:
    (Path(run) / "config.json").unlink()
    assert "<|im_start|>system" in shown(run, "-n", "1", "--prompt")


def test_a_run_under_way(tmp_path: Path, shown: Any) -> None:
    run = write_run(str(tmp_path / "run"), num_open=3)
    text = shown(run)
    assert text.startswith(f"{run}: 4 of 7 problems so far\n")
    assert shown_ids(text) == ["p0", "p1", "p2"]


def test_a_run_whose_input_is_still_being_read(tmp_path: Path, shown: Any) -> None:
    run = write_run(str(tmp_path / "run"), num_open=3)
    (tmp_path / "run" / "rewrite" / "problems.json").unlink()
    assert shown(run).startswith(f"{run}: 4 problems so far\n")


def test_dropped_problems(run: str, shown: Any) -> None:
    row = {name: value for name, value in example(7, "expert").items() if name in DROPPED_SCHEMA.names}
    (Folder.at(run) / "rewrite").write_table("dropped-00001.parquet", to_table([row], DROPPED_SCHEMA))
    text = shown(run, "--origin", "dropped", "--prompt", "--tokens", "--attempts")
    assert shown_ids(text) == ["p7"]
    assert "attempt guided/0: copies_reference" in text
    assert "kept response" not in text


def suspect(number: int, num_agreeing: int, num_attempts: int) -> dict[str, Any]:
    found = {"problem_id": f"p{number}", "answer": "2", "agreed_answer": "3\x1b[2J", "num_correct": 0}
    return found | {"agreeing": list(range(num_agreeing)), "num_attempts": num_attempts}


def run_with_suspects(output: str) -> str:
    """Suspects p2 and p4 (dropped, more evidence); first attempts at p0 and p3 are right, that at p5 is wrong."""
    right = [attempt("self", 0, "correct")]
    rows = [example(number, "self", attempts=right) for number in (0, 3)] + [example(2, "expert"), example(5, "expert")]
    write_run(output, [rows])
    folder = Folder.at(output) / "rewrite"
    dropped = {name: value for name, value in example(4, "expert").items() if name in DROPPED_SCHEMA.names}
    folder.write_table("dropped-00000.parquet", to_table([dropped], DROPPED_SCHEMA))
    manifest = folder.read_json("manifest.json") | {"suspects": [suspect(2, 4, 8), suspect(4, 8, 8)]}
    folder.write_json("manifest.json", manifest)
    return output


def test_suspects_are_sorted_by_evidence_with_the_policys_accuracy(tmp_path: Path, shown: Any) -> None:
    run = run_with_suspects(str(tmp_path / "run"))
    text = shown(run, "--suspects")
    assert shown_ids(text) == ["p4", "p2"]
    assert text.splitlines()[1] == (
        "2 of 2 suspect gold answers, most evidence first. On the other problems, "
        "2 of 3 first attempts are right (67%)."
    )
    assert "-- answer\n2\n-- agreed answer (8 of 8 attempts, evidence 0.60)\n3\\x1b[2J\n" in text
    assert shown_ids(shown(run, "--suspects", "-n", "1")) == ["p4"]
    assert shown_ids(shown(run, "--suspects", "--origin", "expert")) == ["p2"]
    assert shown_ids(shown(run, "--suspects", "--problem", "p2")) == ["p2"]
    assert "has no row with a suspect gold answer for problem p0" in shown(run, "--suspects", "--problem", "p0", code=2)


def test_a_run_without_suspects_says_so(run: str, shown: Any) -> None:
    assert shown(run, "--suspects").splitlines()[1].startswith("no suspect gold answers")


def test_doubtful_gold_answers_are_listed_with_suspects(run: str, shown: Any) -> None:
    folder = Folder.at(run) / "rewrite"
    bad = [{"problem_id": f"p{n}", "finding": "contradicted", "answer": "2", "solution_says": "3"} for n in range(9)]
    folder.write_json("manifest.json", folder.read_json("manifest.json") | {"bad_golds": bad})
    assert shown(run, "--suspects", "-n", "1").splitlines()[2:] == [
        "1 of 9 gold answers that the check of the data doubts:",
        "  p0: contradicted: the answer is 2, the solution says 3",
    ]


ODD = "[bold]x[/bold] \x1b[31mred\x07 \x9b1m \x7f\r\u202e :smile:\tend \\boxed{2}" + " long" * 60


def test_a_models_text_cannot_control_the_terminal(tmp_path: Path, shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = [attempt("self", 0, "wrong\x1b[2J", ODD)]
    row = example(0, "self", response=ODD, question=ODD, problem_id="p\x1b]0;x\x07", attempts=attempts)
    run = write_run(str(tmp_path / "run"), [[row]])
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="truecolor", width=40, highlight=False)
    monkeypatch.setattr(bars, "console", console)
    shown(run, "--attempts", "--tokens", "--prompt")
    written = file.getvalue()
    ours = {"\x1b[1m", "\x1b[2m", "\x1b[0m"}  # bold, dim, plain
    for style in ours:
        written = written.replace(style, "")
    assert "\x1b" not in written and "\x9b" not in written and "\x07" not in written and "\r" not in written
    assert "\u202e" not in written
    start, _, end = ODD.partition("\x1b[31m")
    assert f"{start}\\x1b[31mred\\x07 \\x9b1m \\x7f\\r\\u202e :smile:" in written
    assert end.endswith(" long" * 60) and " long" * 60 + "\n" in written, "no line is broken"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("plain, \ttab\nline é 漢 🙂", "plain, \ttab\nline é 漢 🙂"),
        ("\x00\x1b[0m\x85", "\\x00\\x1b[0m\\x85"),
        ("a\r\nb\x0b\x0c", "a\\r\nb\\x0b\\x0c"),
        ("\u2066hidden\u2069\u200f", "\\u2066hidden\\u2069\\u200f"),
    ],
)
def test_control_characters_are_written_out(text: str, expected: str) -> None:
    assert escape_controls(text) == expected


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["missing"], "missing: no such folder; give a run's folder, its [run] output"),
        (["empty"], "empty: holds no run, neither an experiment's config.json nor a stage; give a run's folder"),
        (
            ["run/rewrite"],
            "run/rewrite: holds no run, neither an experiment's config.json nor a stage; give the",
        ),
        (["configured"], "configured: holds no rewrite/, so no examples; run `ossft rewrite` first"),
        (["run", "--origin", "dropped"], "run: has no row of origin dropped"),
        (["run", "--problem", "p9", "--origin", "self"], "run: has no row of origin self for problem p9"),
        (["run", "--origin", "mine"], "'mine' is not one of 'self', 'guided', 'external', 'expert', 'dropped'"),
        (["run", "-n", "0"], "0 is not in the range x>=1"),
        (["begun"], "begun: has no row so far"),
        (["broken"], "part-00000.parquet: cannot be read"),
        (["columns"], "part-00000.parquet: column 'completion' is missing"),
        (["torn"], "torn/config.json: not valid JSON"),
        (["nowhere://bucket/run"], "nowhere://bucket/run: not a path or URI"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(
    tmp_path: Path, shown: Any, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run("run")
    Path("empty").mkdir()
    write_run("begun", [], num_open=2)
    for name in ("broken", "columns", "torn"):
        shutil.copytree("run", name)
    Path("broken/rewrite/part-00000.parquet").write_text("no Parquet")
    table = Folder.at("run/rewrite").read_table("part-00000.parquet").drop_columns("completion")
    Folder.at("columns/rewrite").write_table("part-00000.parquet", table)
    Path("torn/config.json").write_text("{")
    write_config(settings("configured"))
    line = shown(*arguments, code=2)
    assert line.startswith("error: ") and line.count("\n") == 1
    assert words in line


def test_the_policys_own_template_is_used(tmp_path: Path, shown: Any) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m['content'] }}!!<|im_end|>{% endfor %}"
    run = write_run(str(tmp_path / "run"), chat_template=template)
    assert load_chat(Policy(model="playground", chat_template=template)).end_of_turn_id == 2
    assert "<|im_start|>What is 1 + 1? (0)!!<|im_end|>" in shown(run, "-n", "1", "--prompt")
