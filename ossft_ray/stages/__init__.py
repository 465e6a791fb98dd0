"""The stages of the flow, one folder each: rewrite, score, train, evaluate; and `ossft run`, which runs them all."""
