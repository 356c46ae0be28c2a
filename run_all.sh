#!/usr/bin/env bash
# Sets up this project and trains the whole roadmap; --help explains.
set -euo pipefail
home=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'TEXT'
./run_all.sh                      set up, train the quick roadmap study (17 rows, 1 seed, Fashion-MNIST), report
./run_all.sh STUDY [OPTION]…      the same for another study: a shipped study's name or a YAML file; the options are
                                  those of `ablations run`, such as --seeds 0,1,2 or --budget 5epochs
./run_all.sh test [OPTION]…       set up and run the tests, a process for each core; the options are pytest's
./run_all.sh --help               this text

Setting up makes a virtual environment in .venv and installs what constraints.txt pins (5.4 GB on Linux, where torch
brings CUDA). Data goes to data/, results to runs/STUDY. Everything may be interrupted and started again: what is done
is kept. PYTHON names the Python to use (3.11 or newer), default python3.
TEXT
}

setup() { # setup EXTRAS: the virtual environment, made anew or brought up to date only where something changed
  local python=$home/.venv/bin/python stamp=$home/.venv/installed wanted
  wanted="$1 $(cat -- "$home/constraints.txt" "$home/pyproject.toml" | cksum)"
  if [ -x "$python" ] && grep -qsxF -- "$wanted" "$stamp"; then return; fi
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "run_all.sh: ${PYTHON:-python3} is older than Python 3.11; set PYTHON to a newer one" >&2; exit 2; }
  echo "run_all.sh: installing into $home/.venv (the first time some minutes and 5.4 GB)"
  "${PYTHON:-python3}" -m venv "$home/.venv"
  "$python" -m pip install -qq --disable-pip-version-check -c "$home/constraints.txt" -e "$home$1" ||
    { echo "run_all.sh: the packages could not be installed; see above" >&2; exit 1; }
  echo "$wanted" >>"$stamp"
}

case "${1-quick}" in
-h | --help)
  usage
  ;;
test)
  setup '[test]'
  cd -- "$home"
  exec .venv/bin/python -m pytest -n auto --dist loadgroup "${@:2}"
  ;;
-*)
  echo "run_all.sh: unknown option $1; ./run_all.sh --help explains" >&2
  exit 2
  ;;
*)
  study=${1-quick}
  for option in "${@:2}"; do
    case "$option" in
    --out | --out=*)
      echo "run_all.sh: $option: results go to runs/STUDY; for another folder use ablations run" >&2
      exit 2
      ;;
    --dry-run | --help | -h) only_run=yes ;;
    esac
  done
  setup ''
  name=$(basename -- "$study") && out=$home/runs/${name%.y*ml}
  ablations=$home/.venv/bin/ablations
  status=0
  "$ablations" run "$study" --out "$out" --data-dir "$home/data" "${@:2}" || status=$?
  if [ "$status" -gt 1 ] || [ "${only_run-}" ]; then exit "$status"; fi
  "$ablations" report "$out" || exit $?
  exit "$status"
  ;;
esac
