#!/bin/sh
# Set up this project and train the whole roadmap; see --help. Plain POSIX: macOS has bash 3.2 and BSD tools.
set -eu
home=$(cd -- "$(dirname -- "$0")" && pwd)

usage() {
  cat <<'TEXT'
./run_all.sh                      set up, train the quick roadmap study (17 rows, 6 seeds, Fashion-MNIST), report
./run_all.sh STUDY [OPTION]…      the same for another study: the name of a shipped study or a YAML file; the options
                                  are those of `ablations run`, such as --seeds 0,1,2 or --budget 5epochs
./run_all.sh test [OPTION]…       set up and run the tests, one process per core; the options are those of pytest
./run_all.sh --help               print this text

Setup creates a virtual environment in .venv and installs the versions in constraints.txt (5.4 GB on Linux, where torch
includes CUDA). Data is stored in data/, results in runs/STUDY. Interrupt any command at any time; rerun it to resume.
It needs Linux, or macOS 14 or newer on Apple silicon; on Windows use WSL2.
PYTHON sets the Python to use (3.11 or newer) [default: python3].
TEXT
}

setup() { # setup EXTRAS: create or update the virtual environment if something changed
  python=$home/.venv/bin/python stamp=$home/.venv/installed
  wanted="$1 $(cat -- "$home/constraints.txt" "$home/pyproject.toml" | cksum)"
  if [ -x "$python" ] && grep -qsxF -- "$wanted" "$stamp"; then return; fi
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "run_all.sh: ${PYTHON:-python3} is older than Python 3.11; set PYTHON to a newer one" >&2; exit 2; }
  echo "run_all.sh: installing into $home/.venv (first time: a few minutes, 5.4 GB on Linux)"
  "${PYTHON:-python3}" -m venv "$home/.venv"
  "$python" -m pip install -qq --disable-pip-version-check -c "$home/constraints.txt" -e "$home$1" ||
    { echo "run_all.sh: could not install the packages; see above" >&2; exit 1; }
  echo "$wanted" >>"$stamp"
}

[ $# -gt 0 ] || set -- quick
case "$1" in
-h | --help)
  usage
  ;;
test)
  shift
  setup '[test]'
  cd -- "$home"
  exec .venv/bin/python -m pytest -n auto --dist loadgroup ${1+"$@"} # some shells call an empty $@ unset
  ;;
-*)
  echo "run_all.sh: unknown option $1; see ./run_all.sh --help" >&2
  exit 2
  ;;
*)
  only_run=
  for option in "$@"; do
    case "$option" in
    --out | --out=*)
      echo "run_all.sh: $option: results are stored in runs/STUDY; use ablations run for another folder" >&2
      exit 2
      ;;
    --dry-run | --help | -h) only_run=yes ;;
    esac
  done
  setup ''
  name=$(basename -- "$1") && out=$home/runs/${name%.y*ml}
  ablations=$home/.venv/bin/ablations
  status=0
  "$ablations" run --out "$out" --data-dir "$home/data" "$@" || status=$?
  if [ "$status" -gt 1 ] || [ "$only_run" ]; then exit "$status"; fi
  "$ablations" report "$out" || exit $?
  exit "$status"
  ;;
esac
