"""Pre-training of the playground's tiny policy, which the package contains.

    python benchmarks/pretrain_playground.py [--output DIR] [--steps 1200] [--seed 0]

A Qwen2 of about 0.6 million parameters over a byte-level tokenizer learns from scratch to solve problems in its own
style, alone and with the expert's solution in view. Both abilities have limits. Alone it sees chains of at most four
terms and easy products. Guided it also sees one product of a wide range, which it can only read in the guide. Products
of the problems to solve (`TABLE`) and chains as long as level 5's are in neither. In some guided examples the expert's
result is wrong while the target solution stays right, so that the policy learns to use a guide instead of repeating
its last line. The last line of the output is a JSON object.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from fourway.experts import with_wrong_result
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ossft_ray.common.playground_paths import POLICY_FOLDER
from ossft_ray.method.prompts import guided_prompt, solve_prompt
from ossft_ray.playground.arithmetic import TABLE, ArithmeticProblem, Products, sample_problem

VOCABULARY_SIZE = 512
CONTEXT = 2048
PRODUCTS: dict[str, Products] = {
    "none": [],
    "easy": [(a, b) for a in range(2, 13) for b in (2, 3)],
    "wide": [(a, b) for a in range(4, 31) for b in range(4, 10) if (a, b) not in TABLE],  # only in guided problems
}
Mix = dict[tuple[int, str], float]  # weight of each level and kind of products
ALONE: Mix = {(1, "none"): 0.30, (2, "none"): 0.34, (3, "none"): 0.20, (4, "easy"): 0.16}
GUIDED: Mix = {(1, "none"): 0.10, (2, "none"): 0.15, (3, "none"): 0.20, (4, "easy"): 0.05, (4, "wide"): 0.50}
CORRUPTED_GUIDES = 0.1  # share of guided examples whose guide ends in a wrong result
NUM_ALONE, NUM_GUIDED = 64, 32  # examples a step
PEAK_LEARNING_RATE, FINAL_SHARE, WARMUP_STEPS = 2e-3, 0.3, 100

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TokenPair = tuple[list[int], list[int]]  # prompt and response


def draw_problem(mix: Mix, rng: random.Random) -> ArithmeticProblem:
    """A problem of the pre-training split, its level and kind of products drawn by the weights."""
    ((level, products),) = rng.choices(list(mix), list(mix.values()))
    return sample_problem(level, "pretrain", rng, PRODUCTS[products])


def draw_example(guided: bool, rng: random.Random) -> tuple[list[dict[str, str]], str]:
    """A prompt, guided or not, and the response to learn, which is always in the policy's own style."""
    problem = draw_problem(GUIDED if guided else ALONE, rng)
    if not guided:
        return solve_prompt(problem.question), problem.own_solution
    guide = problem.expert_solution
    if rng.random() < CORRUPTED_GUIDES:
        guide = with_wrong_result(guide, rng)
    return guided_prompt(problem.question, guide), problem.own_solution


def build_tokenizer(rng: random.Random) -> PreTrainedTokenizerFast:
    """A byte-level BPE that can encode every text, with single digits and short codes for the world's own words."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\d| ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s+"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = []
    for index in range(2000):
        messages, response = draw_example(guided=index % 2 == 0, rng=rng)
        texts += [message["role"] + "\n" + message["content"] for message in messages] + ["assistant\n", response]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """The policy with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config)
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return model


def tokenize(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], response: str) -> TokenPair:
    """The tokens of the prompt and of the response, the latter with its end token."""
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt_ids, response_ids = tokenizer([prompt, response], add_special_tokens=False)["input_ids"]
    return prompt_ids, [*response_ids, tokenizer.eos_token_id]


def response_loss(model: Qwen2ForCausalLM, batch: list[TokenPair]) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of the response tokens in nats, and their number; logits exist for these tokens only."""
    length = max(len(prompt) + len(response) for prompt, response in batch)
    tokens_BT = torch.zeros(len(batch), length, dtype=torch.long)
    is_response_BT = torch.zeros(len(batch), length, dtype=torch.bool)
    for row, (prompt, response) in enumerate(batch):
        end = len(prompt) + len(response)
        tokens_BT[row, :end] = torch.tensor(prompt + response)
        is_response_BT[row, len(prompt) : end] = True
    # Padding is on the right and attention is causal, so no mask is needed.
    hidden_BTC = model.model(input_ids=tokens_BT).last_hidden_state
    targets = is_response_BT[:, 1:]
    logits_NV = model.lm_head(hidden_BTC[:, :-1][targets])
    loss = torch.nn.functional.cross_entropy(logits_NV.float(), tokens_BT[:, 1:][targets], reduction="sum")
    return loss, int(targets.sum())


def pretrain(output: Path, steps: int, seed: int = 0) -> dict[str, float]:
    """Train from scratch and write a Hugging Face folder; prints a line every 50 steps and returns the last losses."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer(rng)
    model = build_model(tokenizer)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP_STEPS, max(FINAL_SHARE, 1 - step / steps))
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps", flush=True)
    start = time.monotonic()
    for step in range(1, steps + 1):
        losses = []
        for guided, num_examples in ((False, NUM_ALONE), (True, NUM_GUIDED)):
            batch = [tokenize(tokenizer, *draw_example(guided, rng)) for _ in range(num_examples)]
            loss, num_tokens = response_loss(model, batch)
            (loss / num_tokens / 2).backward()
            losses.append(loss.item() / num_tokens)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - start
            print(f"step {step}: alone {losses[0]:.3f}, guided {losses[1]:.3f} nats, {seconds:.0f} s", flush=True)
        if step % 500 == 0 or step == steps:
            model.save_pretrained(output)
            tokenizer.save_pretrained(output)
    return {"steps": steps, "alone": losses[0], "guided": losses[1], "seconds": time.monotonic() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=POLICY_FOLDER)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(json.dumps(pretrain(arguments.output, arguments.steps, arguments.seed)))


if __name__ == "__main__":
    main()
