#!/usr/bin/env bash
# Evaluate an experiment's base and trained model, as a job on a Ray cluster: evaluate.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" evaluate "$@"
