"""The loss in a plain training loop: ten steps on a run's examples.

    python examples/plain_loop.py runs/demo/rewrite [--loss dft] [--model MODEL] [--steps 10]

`token_loss` takes the hidden states that predict response tokens, the output head's weight and the tokens, and holds
the logits of one chunk of them at a time. `make_loss` looks up a loss of the table by its name. The reference that
some losses need is a copy of the model before training.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.common.errors import InputError
from ossft_ray.config import Policy
from ossft_ray.engines.token_loss import LossInputs, TokenLosses, token_loss
from ossft_ray.method.coefficients import Loss, make_loss
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.model_location import model_path


def train(folder: str, name: str, loss_name: str, num_steps: int, batch_size: int = 8) -> list[float]:
    """Train, and return the loss at each step, a mean over response tokens.

    Raises:
        InputError: the folder has no examples, or there is no such loss or model.
    """
    loss = make_loss(loss_name)  # with a hyper-parameter: make_loss("trsft", alpha=0.2)
    rows = read_examples(folder)
    chat = load_chat(Policy(model=name))
    model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=torch.float32)
    reference = copy.deepcopy(model) if "reference_logprob_T" in loss.needs else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for step in range(num_steps):
        batch = [rows[(step * batch_size + index) % len(rows)] for index in range(batch_size)]
        num_tokens = sum(len(row["response_token_ids"]) for row in batch)
        total = 0.0
        for row in batch:
            prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
            reference_N = None
            if reference is not None:
                with torch.no_grad():
                    reference_N = losses_of(reference, prompt, response, make_loss("sft")).logprob_N
            inputs = LossInputs(
                reference_logprob_N=reference_N, response_N=torch.zeros(len(response), dtype=torch.long)
            )
            losses_of_one = losses_of(model, prompt, response, loss, inputs)
            (losses_of_one.loss / num_tokens).backward()  # of the whole batch, so that every token counts alike
            total += losses_of_one.loss.item() / num_tokens
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        print(f"step {step + 1}: loss {total:.6f}")
    return losses


def losses_of(
    model: Any, prompt: list[int], response: list[int], loss: Loss, inputs: LossInputs | None = None
) -> TokenLosses:
    """The losses of a response's tokens."""
    hidden_TC = model.base_model(torch.tensor([prompt + response])).last_hidden_state[0]
    head_VC = model.get_output_embeddings().weight
    return token_loss(hidden_TC[len(prompt) - 1 : -1], head_VC, torch.tensor(response), loss, inputs)


def read_examples(folder: str) -> list[dict[str, Any]]:
    """The rows of a rewrite folder's parts, which lie next to other files."""
    files = sorted(Path(folder).glob("part-*.parquet"))
    if not files:
        raise InputError(f"{folder}: no part-*.parquet; give the rewrite folder of a run, such as runs/demo/rewrite")
    columns = ["prompt", "response_token_ids"]
    return [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the loss in a plain training loop")
    parser.add_argument("folder", help="the rewrite folder of a run")
    parser.add_argument("--loss", default="dft", help="a loss of the table; not `is`")
    parser.add_argument("--model", default="playground")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    try:
        train(arguments.folder, arguments.model, arguments.loss, arguments.steps)
    except InputError as error:
        parser.error(str(error))
