"""The loss in TRL: an SFTTrainer with any loss of the table, and without the logits of all tokens in memory.

python examples/trl_trainer.py runs/demo/rewrite [--loss trsft] [--model MODEL] [--steps 10] [--output DIR]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from ossft_ray.common.errors import InputError
from ossft_ray.engines.token_loss import token_loss
from ossft_ray.method.coefficients import make_loss
from ossft_ray.policy.model_location import model_path


class TokenLossTrainer(SFTTrainer):
    """SFTTrainer with a loss of the table instead of its own.

    A loss with a reference needs the reference's log-probabilities: pass them to `token_loss` as `LossInputs`.
    """

    def __init__(self, *arguments: Any, loss: str, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.token_loss = make_loss(loss)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels_BT = inputs["labels"]
        plain = self.accelerator.unwrap_model(model)
        names = ("input_ids", "attention_mask", "position_ids")
        outputs = plain.base_model(**{name: inputs[name] for name in names if name in inputs}, use_cache=False)
        is_response_BT = labels_BT[:, 1:] != -100
        losses = token_loss(
            outputs.last_hidden_state[:, :-1][is_response_BT],
            plain.get_output_embeddings().weight,
            labels_BT[:, 1:][is_response_BT],
            self.token_loss,
        )
        # the response tokens of the whole batch, so that gradient accumulation changes nothing
        num_tokens = is_response_BT.sum() if num_items_in_batch is None else num_items_in_batch
        loss = losses.loss / num_tokens
        return (loss, outputs) if return_outputs else loss


def train(folder: str, model: str, loss: str, num_steps: int, output: str, **settings: Any) -> list[float]:
    """Train, and return the loss at each step.

    Raises:
        InputError: the folder has no examples, or there is no such loss or model, or the loss needs more inputs.
    """
    files = sorted(map(str, Path(folder).glob("part-*.parquet")))
    if not files:
        raise InputError(f"{folder}: no part-*.parquet; give the rewrite folder of a run, such as runs/demo/rewrite")
    dataset: Dataset = load_dataset("parquet", data_files=files, split="train")
    path = model_path(model)
    trainer = TokenLossTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        args=SFTConfig(
            output_dir=output,
            max_steps=num_steps,
            completion_only_loss=True,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            **{"bf16": torch.cuda.is_available(), **settings},
        ),
        train_dataset=dataset.select_columns(["prompt", "completion"]),
        processing_class=AutoTokenizer.from_pretrained(path),
        loss=loss,
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a loss of the table in TRL")
    parser.add_argument("folder", help="the rewrite folder of a run")
    parser.add_argument("--loss", default="dft", help="a loss of the table that needs no reference")
    parser.add_argument("--model", default="playground")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", default="runs/trl")
    arguments = parser.parse_args()
    try:
        print(train(arguments.folder, arguments.model, arguments.loss, arguments.steps, arguments.output))
    except InputError as error:
        parser.error(str(error))
