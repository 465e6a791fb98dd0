"""The Ray plans, one a stage, each readable top to bottom: rewrite, score, train, evaluate."""
