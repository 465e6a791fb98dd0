#!/usr/bin/env bash
# Make an experiment's data on-policy, as a job on a Ray cluster: rewrite.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" rewrite "$@"
