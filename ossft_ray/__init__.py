"""Off-policy supervised fine-tuning on Ray: make expert data on-policy, then train on it with importance weights.

    problems ──rewrite──▶ examples ──score──▶ log p ──train──▶ model ──evaluate──▶ accuracies ──report──▶ page
                 │                     │                 │        │
        self-alignment          of each response   importance-    └── next round (online rewriting)
        guided-alignment        token under the    weighted loss
        fallback                policy: the gap

Each stage is a function of an `Experiment` (see `config`), and has the name of its command:

    from ossft_ray.config import load_experiment
    from ossft_ray.stages.rewrite import rewrite

    manifest = rewrite(load_experiment("experiment.toml"))

The method is that of "Mind the Gap" (Zhao et al. 2025, arXiv 2509.15157). The loss starts from Dynamic Fine-Tuning
(Wu et al. 2025, arXiv 2508.05629).
"""

__version__ = "0.1.0"
