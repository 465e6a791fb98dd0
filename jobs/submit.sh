#!/usr/bin/env bash
# Run one stage of an experiment as a job on a Ray cluster: submit.sh STAGE CONFIG.toml [options]
# Options: submit.sh --help. How the address and the token are found: submit.py.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "$root/.venv/bin/python" "$root/jobs/submit.py" "$@"
