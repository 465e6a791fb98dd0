"""Prompts are filled in and answers are masked, whatever braces their LaTeX contains."""

import time

import pytest

from ossft_ray.common.prompt_templates import DEFAULT_TEMPLATE, GUIDED_PROMPT, SYSTEM_PROMPT, TEMPLATES, PromptTemplate
from ossft_ray.config import Prompts
from ossft_ray.method.prompts import complete_solution, fill, guided_prompt, hide_answer, mask_answer, solve_prompt
from ossft_ray.method.steps import number_value, numbers
from tests.data_folder import needs_data, read_data


@pytest.mark.parametrize(
    "template, fields, filled",
    [
        ("{question}", {"question": "1+1?"}, "1+1?"),
        (r"{question} Use \boxed{}.", {"question": "1+1?"}, r"1+1? Use \boxed{}."),
        ("{question}", {"question": r"Find $\frac{1}{2}$ of {x}."}, r"Find $\frac{1}{2}$ of {x}."),
        (
            "{question}|{expert_solution}",
            {"question": "{expert_solution}", "expert_solution": "E"},
            "{expert_solution}|E",
        ),
        ("{question} {question}", {"question": "Q"}, "Q Q"),
        ("{expert_solution}", {"question": "Q"}, "{expert_solution}"),
        ("{other} {0} {}", {"question": "Q"}, "{other} {0} {}"),
        ("{question}", {"question": r"\1 \g<0>"}, r"\1 \g<0>"),
    ],
)
def test_fill_replaces_its_fields_and_no_other_braces(template: str, fields: dict[str, str], filled: str) -> None:
    assert fill(template, **fields) == filled


@pytest.mark.parametrize(
    "solution, masked",
    [
        (r"so \boxed{42}.", r"so \boxed{?}."),
        (r"so \boxed{\frac{1}{2}}.", r"so \boxed{?}."),
        (r"\boxed{1} or \fbox{2}", r"\boxed{?} or \fbox{?}"),
        (r"\framebox{3}", r"\framebox{?}"),
        (r"\boxed {4}", r"\boxed {?}"),
        (r"\boxed{a \} b}", r"\boxed{?}"),
        (r"\boxed{\boxed{5}}", r"\boxed{?}"),
        (r"cut off: \boxed{4", r"cut off: \boxed{?"),
        ("48 + 24 = 72\n#### 72", "48 + 24 = 72\n#### ?"),
        (r"\boxed{72}" + "\n#### 72", r"\boxed{?}" + "\n#### ?"),
        ("#### 72\n\n", "#### ?\n\n"),
        ("####72", "####?"),
        ("  #### 1,234 apples.", "  #### ?."),
        ("48 + 24 = 72\n#### 72\nThe answer is: 72", "48 + 24 = 72\n#### ?\nThe answer is: ?"),
        ("So the final answer is $x = 5$.", "So the final answer is ?."),
        (r"The answer is $\boxed{5}$ apples.", r"The answer is $\boxed{?}$ apples."),
        ("The answer is 5, we hope.\nNow we check it.", "The answer is 5, we hope.\nNow we check it."),
        ("#### Step 1\nAdd.\n#### Step 2\nDone: 5.", "#### Step 1\nAdd.\n#### Step 2\nDone: 5."),
        ("#### Step 1\nAdd.\n#### 72", "#### Step 1\nAdd.\n#### ?"),
        ("#### $72\nThat was it.", "#### ?\nThat was it."),
        ("#### -1,234.5\n\nCheck: 5", "#### ?\n\nCheck: 5"),
        ("so it is #### 72", "so it is #### ?"),
        (r"so $\boxed 5$.", r"so $\boxed ?$."),
        (r"so \boxed5 it is", r"so \boxed? it is"),
        (r"so $\boxed\frac{1}{2}$.", r"so $\boxed?$."),
        (r"\boxedness 5", r"\boxedness 5"),
        (r"\boxed", r"\boxed"),
        (r"\boxed{\frac{1}{2}} \boxed{3}", r"\boxed{?} \boxed{?}"),
        ("nothing to hide", "nothing to hide"),
        ("", ""),
    ],
)
def test_mask_answer(solution: str, masked: str) -> None:
    assert mask_answer(solution) == masked


@pytest.mark.parametrize("piece", ["#### ", "\n", "\n ", "####\n", "the answer is ", r"\boxed", r"\boxed{", " ", "."])
def test_masking_a_megabyte_takes_seconds(piece: str) -> None:
    started = time.process_time()
    for text in (piece * (1_000_000 // len(piece)), f"The answer is 5{piece * (500_000 // len(piece))}5"):
        mask_answer(text)
    assert time.process_time() - started < 10


def test_solve_prompt_is_the_system_message_and_the_question() -> None:
    assert solve_prompt("1+1?") == [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "1+1?"},
    ]


@pytest.mark.parametrize("prompt", [solve_prompt("Q", system=""), guided_prompt("Q", "E", system="")])
def test_an_empty_system_message_is_left_out(prompt: list[dict[str, str]]) -> None:
    assert [message["role"] for message in prompt] == ["user"]


@pytest.mark.parametrize(
    "solution, answer, hidden",
    [
        ("48+24 = <<48+24=72>>72 clips, 72 in all.\n#### 72", "72", "48+24 = <<48+24=?>>? clips, ? in all.\n#### ?"),
        ("It is $1,200, or 1200.00, not 1,200.5 or 11200.", "1200", "It is $?, or ?, not 1,200.5 or 11200."),
        ("Seventy-two, seventy two, seventy, 72nd.", "72", "?, ?, seventy, ?nd."),
        ("so twenty, not twenty-one: 20%", "20", "so ?, not twenty-one: ?%"),
        ("a hundred and five, one hundred", "$100", "a hundred and five, ?"),
        ("-5, or 5 below; 0.5 and 5.5", "-5", "-?, or ? below; 0.5 and 5.5"),
        ("half: .5 or 0.50", "0.5", "half: ? or ?"),
        (r"\frac{3}{4} or 3/4 or 0.75, not 13/4", r"\frac{3}{4}", "? or ? or ?, not 13/4"),
        ("3 / 4 of 3/40", "3/4", "? of 3/40"),
        ("Evelyn wins; evelyn, not Evelyna", "Evelyn", "? wins; ?, not Evelyna"),
        ("x = 2x + 1 = 2x+1", "2x + 1", "x = ? = ?"),
        (r"A cat is in \boxed{A}", "A", r"A cat is in \boxed{?}"),
        ("nothing to hide", "7", "nothing to hide"),
        ("nothing to hide", "", "nothing to hide"),
    ],
)
def test_hide_answer(solution: str, answer: str, hidden: str) -> None:
    assert hide_answer(solution, answer) == hidden


@needs_data
def test_no_guide_of_gsm8k_shows_its_answer() -> None:
    for row in read_data("gsm8k_train"):
        answer = row["answer"].rpartition("#### ")[2]
        assert number_value(answer) not in numbers(hide_answer(row["answer"], answer)), row["answer"]


@pytest.mark.thorough
@pytest.mark.parametrize("piece", ["72 ", "7", "seventy ", "7,2", "\\frac{7}{2}", "7/2 ", " "])
@pytest.mark.parametrize("answer", ["72", "7/2", "seven of clubs"])
def test_hiding_in_a_megabyte_takes_seconds(piece: str, answer: str) -> None:
    started = time.process_time()
    hide_answer(piece * (1_000_000 // len(piece)), answer)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    "solution, answer, changes, completed",
    [
        ("2 + 3 = 5", "5", {}, "2 + 3 = 5\nThe answer is $\\boxed{5}$."),
        ("2 + 3 = 5\n", r"\frac{1}{2}", {}, "2 + 3 = 5\nThe answer is $\\boxed{\\frac{1}{2}}$."),
        ("2 + 3 = 5", "5", {"template": "llama-boxed"}, TEMPLATES["llama-boxed"].answer),
        (r"2 + 3 = \boxed{5}", "5", {}, r"2 + 3 = \boxed{5}"),
        ("2 + 3 = 5", "", {}, "2 + 3 = 5"),
        ("2 + 3 = 5", "5", {"answer": ""}, "2 + 3 = 5"),
        ("2 + 3 = 5", "5", {"system": "Add."}, "2 + 3 = 5"),
    ],
)
def test_complete_solution(solution: str, answer: str, changes: dict[str, str], completed: str) -> None:
    found = complete_solution(solution, answer, Prompts(**changes))
    if "template" in changes:
        assert found == f"{solution}\n{completed.replace('{answer}', answer)}"
    else:
        assert found == completed


@pytest.mark.parametrize("hidden_answer, guide", [(None, r"It is \boxed{2}."), ("2", r"It is \boxed{?}.")])
def test_guided_prompt_shows_the_guide(hidden_answer: str | None, guide: str) -> None:
    system, user = guided_prompt("1+1?", r"It is \boxed{2}.", hidden_answer=hidden_answer)
    assert system["content"] == SYSTEM_PROMPT
    assert user == {"role": "user", "content": fill(GUIDED_PROMPT, question="1+1?", expert_solution=guide)}


BOXED = r"Please reason step by step, and put your final answer within \boxed{}."


@pytest.mark.parametrize(
    "name, system, begins, ends",
    [
        ("qwen25-math-cot", BOXED, "1+1?", "1+1?"),
        ("qwen-boxed", "You are a helpful assistant.", "1+1?", f"1+1?\n{BOXED}"),
        ("llama-steps", "", "1+1?", "1+1?\nLet's think step by step and output the final answer within \\boxed{}."),
        (
            "llama-boxed",
            "",
            "Solve the following math problem efficiently and clearly:\n\n- For",
            "\n\nProblem: 1+1?\n",
        ),
    ],
)
def test_prompts_of_each_template(name: str, system: str, begins: str, ends: str) -> None:
    template = TEMPLATES[name]
    *systems, user = solve_prompt("1+1?", template.system, template.solve)
    assert [message["content"] for message in systems] == ([system] if system else [])
    assert user["content"].startswith(begins) and user["content"].endswith(ends)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_every_prompt_of_a_template_asks_for_a_box_once(template: PromptTemplate) -> None:
    for prompt in (
        solve_prompt("1+1?", template.system, template.solve),
        guided_prompt("1+1?", "It is 2.", template.system, template.guided),
    ):
        text = "\n".join(message["content"] for message in prompt)
        assert (text.count(r"\boxed{"), text.count("1+1?")) == (1, 1)
    assert "It is 2." in text and "{" not in text.replace(r"\boxed{", "")


def test_the_default_is_the_papers() -> None:
    assert TEMPLATES[DEFAULT_TEMPLATE] == PromptTemplate(SYSTEM_PROMPT, "{question}", GUIDED_PROMPT)
