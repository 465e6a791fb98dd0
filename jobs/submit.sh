#!/usr/bin/env bash
# Run one stage of an experiment as a job on a Ray cluster: submit.sh STAGE CONFIG.toml [options]
# The options: submit.sh --help. The address and the token: submit.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "$root/.venv/bin/python" "$root/jobs/submit.py" "$@"
