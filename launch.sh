#!/usr/bin/env bash
# Espalier's one entry. The first start makes .venv and installs the project into it; the next ones install nothing.
#
#   ./launch.sh                  the demo: pretrains a small BERT on two processes and changes its shape on the way
#   ./launch.sh test [ARGS]      the test suite (ARGS go to pytest)
#   ./launch.sh VERB [ARGS]      python -m pretrain VERB; `./launch.sh --help` lists the verbs
#
# PYTHON names the interpreter to build .venv from (default: python3). Works from any directory.
set -euo pipefail

home=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=$home/.venv
python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }
die() { say "launch.sh: $*"; exit 2; }

main() {
  local verb=${1:-demo}
  [ $# -eq 0 ] || shift
  install runtime ""
  set_environment
  case $verb in
    test)  install test "[test]"; cd "$home"; exec "$python" -m pytest "$@" ;;
    train) train "$@" ;;
    demo)  demo "$@" ;;
    *)     exec "$python" -m pretrain "$verb" "$@" ;;
  esac
}

# --- set-up ---------------------------------------------------------------------------------------------------------

# install NAME EXTRAS: once per version of pyproject.toml. The stamp is written last, so that a broken install is redone.
install() {
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
  local nproc=$((num_gpus > 0 ? num_gpus : 2)) arguments=()
  while [ $# -gt 0 ]; do
    case $1 in
      --nproc) nproc=${2:-}; shift $(($# > 1)) ;;
      --nproc=*) nproc=${1#*=} ;;
      *) arguments+=("$1") ;;
    esac
    shift
  done
  "$python" -m pretrain train "${arguments[@]}" --nproc "$nproc" --dry-run || exit $?
  for argument in "${arguments[@]}"; do case $argument in -h | --help | --dry-run) exit 0 ;; esac; done

  local cores=$(($(nproc) / nproc))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}
  exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$nproc" -m pretrain train "${arguments[@]}"
}

demo() {
  case " $* " in *" -h "* | *" --help "*)
    echo "usage: ./launch.sh demo [--nproc N] [--set KEY=VALUE]"
    echo "Prepares the embedded corpus, trains the recipe 'demo' into a new folder under runs/ and shows what it learned."
    return ;;
  esac
  cd "$home"                                             # the demo's corpus and run live in the project's folder
  local name
  name=demo-$(date +%Y%m%d-%H%M%S)
  "$python" -m pretrain prepare sotu --output corpora/demo --tokenizer characters --vocab-size 64
  (train demo "$@" --name "$name")
  "$python" -m pretrain.demo "runs/$name"
}

main "$@"
