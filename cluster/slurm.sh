#!/bin/bash
# One command of coevo-ray on the nodes of a Slurm job, resumed by the same job wherever it was stopped:
#
#   sbatch cluster/slurm.sh run mine.yaml --out /shared/mine
#   sbatch --nodes 10 --gpus-per-node 4 cluster/slurm.sh run mine.yaml --out /shared/mine
#   sbatch --array 0-4 cluster/slurm.sh run mine-%a.yaml --out /shared/mine-%a
#
# %a in an argument becomes the task of a job array, so an array runs over configurations, or over seeds in them.
# Options of sbatch on its command line win over those below. README.md beside this file has values for 1, 10 and 100
# nodes.
#SBATCH --job-name=coevo-ray
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# --exclusive: `ray symmetric-run` refuses a node where somebody else's Ray runs, and its port would be taken.
# --signal: this script is told 180 s before the time ends, and before a preemption where the cluster sends it then
# (PreemptParameters=send_user_signal, and a GraceTime). The command ends with exit code 4, "stopped, the same command
# goes on", and the job goes back to the queue, until it is done or was requeued COEVO_RAY_REQUEUES times.
set -euo pipefail

requeues=${COEVO_RAY_REQUEUES:-100}
port=${COEVO_RAY_PORT:-6379}
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}
job=${job:-$SLURM_JOB_ID}

if [ "$#" -eq 0 ]; then
  echo "usage: sbatch $0 COMMAND [ARGUMENTS OF coevo-ray]" >&2
  exit 2
fi
arguments=()
for each in "$@"; do
  arguments+=("${each//%a/${SLURM_ARRAY_TASK_ID:-0}}")
done

# A folder that all nodes see, for this job alone: its token, and the process and exit code of the command.
state=${COEVO_RAY_SLURM_DIR:-$HOME/.coevo-ray/slurm}/$SLURM_JOB_ID
mkdir -p "$state"
chmod 700 "$state"
rm -f "$state/pid" "$state/exit"
trap 'rm -rf "$state"' EXIT

# Whoever has no token can run nothing here; one for this job alone, which all its nodes read.
unset RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH
(umask 077 && HOME=$state ray get-auth-token --generate >/dev/null)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$state/.ray/auth_token

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export COEVO_RAY_STATE=$state COEVO_RAY_HEAD=$head:$port
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}
unset RAY_ADDRESS # `ray start` must not look for another cluster

# Runs on the first node. The exit code goes through a file: `ray symmetric-run` ends with 0 where Ray did not start.
# shellcheck disable=SC2016 # expanded there, not here
on_head='trap : TERM
(echo "$BASHPID" >"$COEVO_RAY_STATE/pid" && RAY_ADDRESS=$COEVO_RAY_HEAD exec coevo-ray "$@")
code=$?
echo "$code" >"$COEVO_RAY_STATE/exit"
exit "$code"'

# This script runs on the first node too, so the command is reached by its process id; srun's other processes, which are
# Ray, stay up until it has written what it keeps.
# shellcheck disable=SC2329 # called by the trap below
stop() {
  echo "stopping coevo-ray: Slurm takes the nodes" >&2
  for _ in $(seq 60); do # it may be starting still
    if [ -s "$state/pid" ]; then
      kill -TERM "$(cat "$state/pid")" || true
      return 0 # without a number it would be that of what was interrupted, and end the script
    fi
    sleep 1
  done
  kill -TERM "$step" || true
}

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=0 \
  ray symmetric-run --address "$COEVO_RAY_HEAD" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --include-dashboard=false -- \
  bash -c "$on_head" coevo-ray "${arguments[@]}" &
step=$!
trap stop TERM
wait "$step" || true
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait` before the step has ended
  wait "$step" || true
done
trap - TERM

if [ ! -s "$state/exit" ]; then
  echo "coevo-ray did not run to its end on $head: see above for why Ray did not start, or what was killed" >&2
  exit 1
fi
code=$(cat "$state/exit")
if [ "$code" -eq 4 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ]; then
  # A job that was cancelled, or that Slurm itself puts back after a preemption, is no longer RUNNING.
  if [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    echo "stopped part-way: job $job goes back to the queue and goes on from there" >&2
    scontrol requeue "$job" # Slurm ends this script here
  fi
fi
exit "$code"
