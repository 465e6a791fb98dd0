"""An arithmetic world in which the paper's method means something at toy size.

problems.py   problems in five levels, in the policy's style and in the expert's
heldout/      the five held-out sets: `python -m ossft_ray.playground.arithmetic` writes them
pretrain.py   makes policy/: `python -m ossft_ray.playground.pretrain`
demo.py       the experiment of `ossft demo`
"""
