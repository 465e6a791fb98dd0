"""The GPU's softmax kernel, run on the CPU by Triton's interpreter, against plain PyTorch."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
# the interpreter is chosen when the module is imported, hence another process
PROGRAM = """
import json, torch
from ossft_ray.engines.softmax_kernel import softmax_statistics

torch.manual_seed(0)
errors = []
for vocabulary in (5, 1024, 3000):
    logits_TV = 5 * torch.randn(7, vocabulary)
    logits_TV[0, 1], logits_TV[3] = float("-inf"), logits_TV[3] - 200
    targets_T = torch.randint(vocabulary, (7,))
    targets_T[0] = 0
    logprob_TV, gradient_TV = logits_TV.double().log_softmax(-1), torch.full_like(logits_TV, 7.0)
    before_TV = logits_TV.clone()
    logprob_T, entropy_T, concentration_T = softmax_statistics(logits_TV, targets_T, gradient_TV)
    assert logits_TV.equal(before_TV), "ranks are read from them afterwards"
    expected_TV = logprob_TV.exp()
    entropy, concentration = torch.special.entr(expected_TV).sum(-1), expected_TV.square().sum(-1)
    expected_TV[range(7), targets_T] -= 1
    logprob = logprob_TV.gather(1, targets_T[:, None])[:, 0]
    pairs = [(logprob_T, logprob), (entropy_T, entropy), (gradient_TV, expected_TV)]
    pairs.append((concentration_T, concentration))
    errors += [(found - expected).abs().max().item() for found, expected in pairs]
    alone_T, *_ = softmax_statistics(logits_TV, targets_T, None)
    assert alone_T.equal(logprob_T) and softmax_statistics(logits_TV[:0], targets_T[:0], None)[0].shape == (0,)
print(json.dumps(errors))
"""


@pytest.mark.thorough
def test_the_kernel_equals_plain_pytorch_even_with_impossible_tokens() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 12 and max(errors) < 5e-5
