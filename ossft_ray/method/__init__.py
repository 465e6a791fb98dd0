"""The paper's method in pure Python: prompts, rewriting, acceptance of responses, loss coefficients, metrics."""
