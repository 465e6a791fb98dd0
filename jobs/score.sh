#!/usr/bin/env bash
# Score an experiment's examples under its policy, as a job on a Ray cluster: score.sh CONFIG.toml [options]
exec "$(dirname "${BASH_SOURCE[0]}")/submit.sh" score "$@"
