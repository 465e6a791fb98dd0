"""The arithmetic world is correct, its splits are disjoint, and the package's policy has the promised shape."""

import json
import math
import random
import re
import struct
from collections import Counter
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer

from ossft_ray.common.playground_paths import BENCHMARKS, POLICY_FOLDER
from ossft_ray.config import Policy
from ossft_ray.method.prompts import guided_prompt
from ossft_ray.playground.arithmetic import (
    LARGEST_TOTAL,
    LEVELS,
    TABLE,
    TRAINING_MIX,
    ArithmeticProblem,
    heldout_problems,
    sample_problem,
    training_problems,
)
from ossft_ray.policy.chat import Chat, load_chat
from ossft_ray.verification import final_answer
from tests.data_folder import needs_data, read_data

CHAIN = re.compile(r"\d+(?: [-+*] \d+)*")


def chain_of(question: str) -> str:
    match = CHAIN.search(question)
    assert match is not None
    return match[0]


def some_problems(level: int, num_problems: int = 40) -> list[ArithmeticProblem]:
    rng = random.Random(level)
    return [sample_problem(level, "train", rng) for _ in range(num_problems)]


@pytest.mark.parametrize("level", LEVELS)
def test_the_answer_is_pythons_value_of_the_question(level: int) -> None:
    for problem in some_problems(level):
        assert int(problem.answer) == eval(chain_of(problem.question))
        assert 0 <= int(problem.answer) <= LARGEST_TOTAL


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("style", ["own_solution", "expert_solution"])
def test_every_step_is_right_and_the_box_holds_the_answer(level: int, style: str) -> None:
    for problem in some_problems(level):
        solution = getattr(problem, style)
        assert final_answer(solution) == problem.answer
        assert style == "expert_solution" or solution.count("=") == solution.count("\n")
        equations = re.findall(r"(\d[\d +*-]*)=\s*(\d+)", solution)
        for left, right in equations:
            assert eval(left) == int(right), solution


@pytest.mark.parametrize("level", LEVELS)
def test_the_two_styles_differ(level: int) -> None:
    for problem in some_problems(level):
        assert problem.own_solution not in problem.expert_solution
        assert set(problem.own_solution.splitlines()).isdisjoint(problem.expert_solution.split(". "))


@pytest.mark.parametrize("level", LEVELS)
def test_heldout_files_are_the_generators_output(level: int) -> None:
    lines = BENCHMARKS[f"playground/level{level}"].read_text().splitlines()
    assert [json.loads(line) for line in lines] == heldout_problems(level)


@pytest.mark.parametrize("level", LEVELS)
def test_heldout_problems_are_distinct_and_right(level: int) -> None:
    rows = heldout_problems(level)
    assert len({chain_of(row["question"]) for row in rows}) == len(rows) == 80
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(eval(chain_of(row["question"])) == int(row["answer"]) for row in rows)


def test_training_problems_are_distinct_seeded_and_never_held_out() -> None:
    rows = training_problems(640)
    chains = {chain_of(row["question"]) for row in rows}
    heldout = {chain_of(row["question"]) for level in LEVELS for row in heldout_problems(level)}
    assert len(chains) == len({row["id"] for row in rows}) == 640
    assert chains.isdisjoint(heldout)
    assert training_problems(640) == rows
    assert chains != {chain_of(row["question"]) for row in training_problems(640, seed=1)}


def test_training_problems_mix_the_levels() -> None:
    counts = Counter(int(row["level"]) for row in training_problems(640))
    assert math.isclose(sum(TRAINING_MIX.values()), 1.0)
    for level, share in TRAINING_MIX.items():
        assert abs(counts[level] / 640 - share) < 4 * math.sqrt(share * (1 - share) / 640)


def test_an_expression_belongs_to_one_split() -> None:
    rng = random.Random(0)
    chains = {
        split: {sample_problem(2, split, rng).chain for _ in range(300)} for split in ("pretrain", "train", "heldout")
    }
    assert all(chains.values())
    assert chains["pretrain"].isdisjoint(chains["train"] | chains["heldout"])
    assert chains["train"].isdisjoint(chains["heldout"])


@pytest.mark.parametrize("level, num_products", [(1, 0), (2, 0), (3, 0), (4, 1), (5, 2)])
def test_products_to_solve_are_those_of_the_table(level: int, num_products: int) -> None:
    for problem in some_problems(level):
        products = [(term.number, term.factor) for term in problem.terms if term.factor]
        assert len(products) == num_products and set(products) <= set(TABLE)


def safetensors_header() -> dict[str, Any]:
    with (POLICY_FOLDER / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def test_the_policy_is_small() -> None:
    num_parameters = sum(math.prod(entry["shape"]) for entry in safetensors_header().values())
    assert 100_000 < num_parameters <= 1_000_000
    assert sum(file.stat().st_size for file in POLICY_FOLDER.iterdir()) <= 4_000_000


def test_the_policy_is_a_qwen2_with_a_context_for_real_text() -> None:
    config = json.loads((POLICY_FOLDER / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["max_position_embeddings"] >= 2048
    assert load_chat(Policy(model="playground")).context_length >= 2048


@pytest.mark.parametrize(
    "text",
    [
        "What is 7 * 8 + 48 - 17?",
        r"So $\frac{1}{2}$ of \boxed{42}, isn't it ?  Two  spaces , and\ttabs\r\n\n",
        "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72",
        "emoji 😀👩‍👩‍👧 and accents éü",
        "中文：二加二等于几？",
        "العربية עברית ไทย 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \x00\x7f\u200b\ufeff",
        " leading and trailing ",
        "",
    ],
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    check_round_trip(text)


@needs_data
def test_real_text_survives_the_tokenizer() -> None:
    for row in read_data("gsm8k_train")[:50]:
        check_round_trip(json.dumps(row, ensure_ascii=False))


def check_round_trip(text: str) -> None:
    chat = load_chat_once()
    token_ids = chat.encode_response(text)
    assert token_ids[-1] == chat.end_of_turn_id
    assert chat.decode(token_ids) == text
    assert max(token_ids) < json.loads((POLICY_FOLDER / "config.json").read_text())["vocab_size"]


@cache
def load_chat_once() -> Chat:
    return load_chat(Policy(model="playground"))


def test_transformers_tokenises_like_the_stored_tokenizer() -> None:
    """AutoTokenizer loads a Qwen2 tokenizer with its own pre-tokenizer, but pre-training used the stored one."""
    chat, stored = load_chat_once(), Tokenizer.from_file(str(POLICY_FOLDER / "tokenizer.json"))
    for level in LEVELS:
        for problem in some_problems(level):
            messages = guided_prompt(problem.question, problem.expert_solution)
            prompt = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            for text in (prompt, problem.own_solution):
                ours = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
                assert ours == stored.encode(text, add_special_tokens=False).ids


def test_the_policy_has_a_chat_template_and_an_end_token() -> None:
    chat = load_chat_once()
    assert chat.tokenizer.chat_template
    assert chat.tokenizer.convert_ids_to_tokens(chat.end_of_turn_id) == "<|im_end|>"
    prompt = chat.tokenizer.decode(chat.render([{"role": "user", "content": "1+1?"}]))
    assert prompt == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    generation = json.loads((POLICY_FOLDER / "generation_config.json").read_text())
    assert chat.end_of_turn_id in generation["eos_token_id"]
