"""The stages of the flow, one folder each: rewrite, score, train, evaluate; and `ossft run`, which runs them all."""

import ossft_ray.distributed  # noqa: F401 (before any stage imports Ray)
