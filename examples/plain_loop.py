"""The loss in a plain training loop: ten steps on a run's examples.

    python examples/plain_loop.py runs/demo/rewrite [--loss dft] [--model MODEL] [--steps 10]

`token_loss` takes the hidden states that predict response tokens, the output head's weight and the tokens, and holds
the logits of one chunk of them at a time. `make_loss` takes a row of the loss table by its name.
"""

import argparse

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM

from ossft_ray.config import Policy
from ossft_ray.engines.token_loss import token_loss
from ossft_ray.method.coefficients import make_loss
from ossft_ray.policy.chat import load_chat
from ossft_ray.policy.location import model_path


def train(folder: str, name: str, loss_name: str, num_steps: int, batch_size: int = 8) -> list[float]:
    """Train, and return the loss at each step, a mean over response tokens."""
    chat = load_chat(Policy(model=name))
    model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    loss = make_loss(loss_name)  # with a hyper-parameter: make_loss("trsft", alpha=0.2)
    rows = pq.read_table(folder).to_pylist()
    losses = []
    for step in range(num_steps):
        batch = [rows[(step * batch_size + index) % len(rows)] for index in range(batch_size)]
        num_tokens = sum(len(row["response_token_ids"]) for row in batch)
        total = 0.0
        for row in batch:
            prompt, response = chat.render(row["prompt"]), chat.close_turn(row["response_token_ids"])
            hidden_TC = model.base_model(torch.tensor([prompt + response])).last_hidden_state[0]
            losses_of_one = token_loss(
                hidden_TC[len(prompt) - 1 : -1], model.get_output_embeddings().weight, torch.tensor(response), loss
            )
            (losses_of_one.loss / num_tokens).backward()  # of the whole batch, so that every token counts alike
            total += losses_of_one.loss.item() / num_tokens
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        print(f"step {step + 1}: loss {total:.6f}")
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="the loss in a plain training loop")
    parser.add_argument("folder", help="the rewrite folder of a run")
    parser.add_argument("--loss", default="dft")
    parser.add_argument("--model", default="playground")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.model, arguments.loss, arguments.steps)
