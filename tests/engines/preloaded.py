"""The modules that processes of `process_group.run_in_group` have imported when they begin."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import peft
import transformers

import ossft_ray.engines.training.scoring
import ossft_ray.engines.training.trainer
import ossft_ray.stages.train.checkpoints

__all__ = ["deepspeed", "ossft_ray", "peft", "transformers"]
