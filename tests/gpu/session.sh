#!/usr/bin/env bash
# The first ten minutes on a GPU: figures, not tracebacks. One GPU, no network; nothing of it is needed on a CPU.
#
#   tests/gpu/session.sh FOLDER              writes FOLDER: a file for each part as soon as there is something to write
#   tests/gpu/session.sh FOLDER --rehearse   the same with a tiny shape, on a CPU
#
# A part that fails, hangs or takes too long costs only itself, and a stop loses nothing. ESPALIER_PYTHON: the Python.
# Then: python -m tests.gpu.page FOLDER > docs/results/gpu.md
set -uo pipefail

folder=${1:?where to write}
rehearse=${2:-}
python=${ESPALIER_PYTHON:-python3}
home=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$home" || exit 2
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
unset DS_ACCELERATOR
[ -z "$rehearse" ] || export DS_ACCELERATOR=cpu

# limit SECONDS COMMAND...
limit() { timeout --kill-after=10 "$@"; }

limit 40 "$python" -m pretrain.cli.doctor >"$folder/doctor.txt" 2>&1
limit 10 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader >"$folder/gpu.txt" 2>&1
# Stopped by SIGINT, pytest tells what has failed so far.
[ -n "$rehearse" ] || limit --signal=INT 90 "$python" -m pytest -q -m gpu tests/gpu tests/model tests/pretrain/engine tests/pretrain/optim >"$folder/pytest.txt" 2>&1

for _ in {1..8}; do  # again after a part that took the process with it
  [ "$SECONDS" -lt 560 ] || break
  limit $((590 - SECONDS)) "$python" -m tests.gpu.session "$folder" "$rehearse" >>"$folder/session.txt" 2>&1 && break
done
tail -n 20 "$folder/session.txt"
"$python" -m tests.gpu.page "$folder" >"$folder/gpu.md"
