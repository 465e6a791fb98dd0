#!/usr/bin/env bash
# Train on an experiment's examples, as a job on a Ray cluster: train.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" train "$@"
