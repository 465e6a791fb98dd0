"""Training and scoring with DeepSpeed."""
