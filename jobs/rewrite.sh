#!/usr/bin/env bash
# Rewrite an experiment's data, as a job on a Ray cluster: rewrite.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" rewrite "$@"
