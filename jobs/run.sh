#!/usr/bin/env bash
# Run all stages of an experiment, as a job on a Ray cluster: run.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" run "$@"
