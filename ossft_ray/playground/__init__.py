"""An arithmetic world in which the paper's method has the effects that the paper reports, at toy size.

arithmetic.py     problems in five levels, with solutions in the policy's style and in the expert's
heldout/          the five held-out problem sets: `python -m ossft_ray.playground.arithmetic` writes them
policy/           the tiny policy: `python benchmarks/pretrain_playground.py` trained it
demo.py           the experiment of `ossft demo`, from demo.toml
"""
