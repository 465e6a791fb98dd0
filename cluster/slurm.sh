#!/usr/bin/env bash
# Run one experiment on a Slurm cluster, requeued at each time limit until it is done. From the repository's root:
#
#   sbatch [options of sbatch] cluster/slurm.sh STAGE CONFIG.toml [options]
#
# The script runs `ossft STAGE --config CONFIG.toml [options]`. Ten minutes before the time limit Slurm signals it, and it
# sends SIGTERM to `ossft`, which writes a checkpoint and ends. The job is then requeued and resumes. What to change:
# cluster/README.md.
#SBATCH --job-name=ossft
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# Of the 600 seconds above, Slurm may take one minute to signal. `ossft` has this long to end; then the job is requeued.
grace_seconds=${OSSFT_GRACE_SECONDS:-480}
max_requeues=${OSSFT_MAX_REQUEUES:-50} # ends a job that makes no progress

die() {
    echo "error: $*" >&2
    exit 2
}

requeue() {
    echo "$(date): near the time limit; requeued (${SLURM_RESTART_COUNT:-0} times before)"
    scontrol requeue "$SLURM_JOB_ID"
}

# Signal the driver only: symmetric-run and Ray must keep running until it has ended.
# shellcheck disable=SC2329 # a trap calls it
stop_driver() {
    interrupted=true
    if [[ -s $state/pid ]]; then
        kill -TERM "$(<"$state/pid")" || true
    else
        kill -TERM "$step" || true
    fi
}

# shellcheck disable=SC2329 # a trap calls it
at_time_limit() {
    near_limit=true
    stop_driver
    # At the limit itself it is too late: Slurm kills the job and does not requeue it.
    { sleep "$grace_seconds" >/dev/null 2>&1 && may_requeue && requeue; } &
    watchdog=$!
}

may_requeue() {
    ((${SLURM_RESTART_COUNT:-0} < max_requeues)) || {
        echo "error: requeued $max_requeues times already (OSSFT_MAX_REQUEUES)" >&2
        return 1
    }
}

[[ -n ${SLURM_JOB_ID:-} ]] || die "not in a Slurm job: submit it with sbatch cluster/slurm.sh STAGE CONFIG.toml"
(($# >= 2)) || die "give a stage and an experiment file: sbatch cluster/slurm.sh STAGE CONFIG.toml [options]"
root=$SLURM_SUBMIT_DIR # Slurm runs a copy of this script
[[ -x $root/.venv/bin/ossft ]] || die "no environment in $root/.venv: run sbatch from the repository's root, after make env"
stage=$1 config=$(realpath -- "$2")
[[ -f $config ]] || die "no experiment file $config"
shift 2

# shellcheck source=/dev/null
source "$root/.venv/bin/activate"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
[[ -s ${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token} ]] || die "no token for Ray: make one, ray get-auth-token --generate"

# This script runs on the first node and can signal the driver only there, so the first node is Ray's head.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${nodes%%$'\n'*}:6379
state=$(mktemp -d)
near_limit=false
watchdog=''
trap at_time_limit USR1
trap stop_driver TERM # scancel, or a preemption that requeues by itself

# The driver starts once all nodes have joined, which takes long on a slow file system.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}
# shellcheck disable=SC2016 # the inner shell expands these, on the head
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    bash -c 'echo $$ >"$1/pid"; export RAY_ADDRESS=$2; shift 2; exec "$@"' driver "$state" "$address" \
    ossft "$stage" --config "$config" "$@" &
step=$!

# A signal also ends `wait`, so wait again until the step has ended.
while true; do
    interrupted=false code=0
    wait "$step" || code=$?
    [[ $interrupted == true ]] || break
done
if [[ -n $watchdog ]]; then kill "$watchdog" 2>/dev/null || true; fi
rm -rf "$state"

# A job that is done (0) or has bad input (2) is not requeued.
if [[ $near_limit == true ]] && ((code != 0 && code != 2)) && may_requeue; then requeue; fi
exit "$code"
