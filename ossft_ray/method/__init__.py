"""The paper, in pure Python: prompts, the three stages of rewriting, loss coefficients, metrics."""
