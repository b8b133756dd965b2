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
#
# This file finds a Python and the project. Starting ranks is pretrain/launch's work.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
die() { say "launch.sh: $*"; exit 2; }

# A signal that asks a run to save itself may come before there is a Python that could hear it: it is told later.
keep_signals() {
  local name
  # shellcheck disable=SC2064
  for name in TERM HUP USR1 USR2; do trap "export ESPALIER_SIGNAL=SIG$name" "$name"; done
}
case "${1:-} ${2:-}" in "train "* | "--here train") keep_signals ;; esac

# find_home: the project's folder. sbatch runs a copy of this file out of its spool; there SLURM knows the original, and
# if that is a script of the user's own, the project is the folder that the job was submitted from, or one above it.
find_home() {
  local folder command
  folder=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
  if is_home "$folder" || [ -z "${SLURM_JOB_ID:-}" ]; then printf '%s\n' "$folder"; return; fi
  command=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/^ *Command=//p') || true
  folder=$(readlink -f "${command%%/launch.sh*}" || true)
  if is_home "$folder"; then printf '%s\n' "$folder"; return; fi
  folder=${SLURM_SUBMIT_DIR:-$PWD}
  until is_home "$folder" || [ "$folder" = / ]; do folder=$(dirname "$folder"); done
  printf '%s\n' "$folder"
}
is_home() { [ -f "$1/pyproject.toml" ] && [ -d "$1/pretrain" ]; }

home=$(find_home)
is_home "$home" || die "${SLURM_SUBMIT_DIR:-$home} is not in Espalier's folder; submit the job from there"
venv=$home/.venv
python=$venv/bin/python

main() {
  if [ "${1:-}" = --here ]; then ESPALIER_PYTHON=$(command -v python || command -v python3); shift; fi
  local verb=${1:-demo}
  [ $# -eq 0 ] || shift
  if [ -n "${ESPALIER_PYTHON:-}" ]; then
    use_own_python "$verb"
  elif [ "$verb" = doctor ]; then
    [ -x "$python" ] || python=${PYTHON:-python3}        # what .venv has, or the Python that it would be made from
  else
    install runtime ""
    use_venv
  fi
  export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
  case $verb in
    test)
      install test "[test]"
      [ $# -gt 0 ] || set -- --numprocesses 2            # everything: while one waits for processes, the other computes
      export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
      cd "$home"; exec "$python" -m pytest "$@" ;;
    check) install test "[test]"; cd "$home"; exec "$python" -m pytest -q tests/repository "$@" ;;
    demo)  cd "$home" ;;                                 # the demo's corpus and runs live in the project's folder
    doctor) exec "$python" -m pretrain.cli.doctor "$@" ;; # answers where nothing else would start
    finetune) asks_help "$@" || install finetune "[finetune]" ;;
    prepare) case " $* " in *" --filters "*|*" --near-duplicates "*|*" --executor "*) install corpus "[corpus]" ;; esac ;;
  esac
  exec "$python" -m pretrain "$verb" "$@"
}

asks_help() { case " $* " in *" -h "* | *" --help "*) ;; *) return 1 ;; esac; }

# --- set-up ---------------------------------------------------------------------------------------------------------

use_own_python() {
  python=$(command -v "$ESPALIER_PYTHON") || die "ESPALIER_PYTHON $ESPALIER_PYTHON not found; name a Python of 3.10 or newer"
  export ESPALIER_PYTHON=$python
  [ "$1" = doctor ] || PYTHONPATH=$home "$python" -m pretrain.cli.doctor --quiet || exit 2
}

use_venv() {
  # Compiled operators belong to this environment: a cache shared by two torch versions is rebuilt at every switch.
  # (In a SLURM job they go to the node's own disk; pretrain/launch/environment.py.)
  [ -n "${SLURM_JOB_ID:-}" ] || export TORCH_EXTENSIONS_DIR=${TORCH_EXTENSIONS_DIR:-$venv/torch_extensions}
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

main "$@"
