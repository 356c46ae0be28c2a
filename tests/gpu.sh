#!/usr/bin/env bash
# Show on an NVIDIA GPU what only a GPU can show, in at most 25 minutes; tables are printed and kept.
#
#   tests/gpu.sh [FOLDER]   run everything; results go to a new FOLDER [default: runs/gpu]
#   tests/gpu.sh --list     print the time limit (s) and the command of each step, and run nothing
#
# Run it from the project's folder after `./run_all.sh test --collect-only`, which installs what it needs. Fashion-MNIST is
# read from $DATA [default: data], or downloaded. $PYTHON is the Python to use [default: .venv/bin/python].
# A machine with one GPU skips the tests of two processes (NCCL); nothing else needs a second one.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
python=${PYTHON:-.venv/bin/python} data=${DATA:-data} listing='' failed=0 number=0 tables=''
if [ "${1-}" = --list ]; then listing=yes && shift; fi
out=${1:-runs/gpu}

step() { # step SECONDS TITLE COMMAND…: run a command with a time limit, and note how it ended
  local limit=$1 title=$2 begun=$SECONDS status
  shift 2
  if [ "$listing" ]; then
    printf '%s\t' "$limit" && printf '%q ' "$@" && echo
    return
  fi
  number=$((number + 1))
  printf '\n== %s\n' "$title"
  timeout --kill-after 10 "$limit" "$@" | tee -- "$out/logs/$number.txt"
  status=${PIPESTATUS[0]}
  if [ "$status" != 0 ]; then failed=1; fi
  printf '%s\t%s\t%s\t%s\n' "$number" "$((SECONDS - begun))" "$status" "$title" >> "$out/steps.tsv"
}

table() { # table SECONDS TITLE COMMAND…: a step whose output is a table, printed again in the end
  tables+=" $((number + 1))"
  step "$@"
}

if [ ! "$listing" ]; then
  if [ -e "$out" ]; then # a study would skip the runs that it has, and seem fast
    echo "tests/gpu.sh: $out exists; name another folder, or remove it" >&2
    exit 2
  fi
  mkdir -p -- "$out/logs" || exit
  nvidia-smi
fi
ablations=("$python" -m ablations)

# ---- What only a GPU can show of each point (tests/test_cuda.py says why, test by test)
# - A step does not wait for the GPU: the fake device counts what torch lets it see; here CUDA refuses each wait.
# - Errors that cost the process its GPU (an assertion in a kernel), and too little memory: real ones.
# - deterministic=true: resumed runs have the same bits, with cuDNN's and cuBLAS's algorithms.
# - TF32: convolutions and matrix products lose the same bits, or none.
# - Memory: what the caching allocator holds after a run. Two processes: NCCL, which alone hangs when it is left.
# The tests share a process, in which cuBLAS has to know from the start that results must repeat.
step 200 "tests on the GPU" env CUBLAS_WORKSPACE_CONFIG=:4096:8 "$python" -m pytest -q -n 0 -p no:cacheprovider tests/test_cuda.py
# A worker has to tell cuBLAS so by itself, before CUDA starts: torch fails a run otherwise.
step 40 "deterministic workers" "${ablations[@]}" run sweep --base pocket --flags "kernel_size=3:7" --data digits \
  --device cuda:0 --set batch_size=32 --set deterministic=true --budget 2000images --seeds "0,1" --out "$out/deterministic"

# ---- Speed beside torchvision and timm. Anchor: timm prints 819 (convnext_tiny) and 1,218 images/s (resnet50) for training
# in AMP on one RTX 3090.
bench=("${ablations[@]}" bench --device cuda --threads 4)
peers=(--against "torchvision,timm" --memory-format channels_last)
# torch.compile takes most of the time: the network is compiled to train, and for one image and a batch of them to infer. So
# two steps, beside timm alone; the roadmap below has torchvision, too.
for network in convnext_tiny resnet50; do
  table 215 "$network, bf16, eager and compiled" "${bench[@]}" "$network" --against timm --memory-format channels_last \
    --precision bf16 --batch-size 128 --over "compile=off,on" --repeats 3 --out "$out/bf16-$network.json"
done
table 80 "float32 and TF32, alike for all" "${bench[@]}" convnext_tiny "${peers[@]}" \
  --batch-size 64 --over "precision=float32,tf32" --repeats 3 --out "$out/tf32.json"
table 210 "the roadmap, one row at a time" "${bench[@]}" --roadmap resnet50 "${peers[@]}" \
  --precision bf16 --batch-size 128 --repeats 2 --out "$out/roadmap.json"
table 100 "pocket training: eager, compiled, CUDA graphs" "$python" tests/gpu_graphs.py "$data"
table 60 "pocket training: the Trainer and plain loops" "${ablations[@]}" loops pocket --data-dir "$data" --device cuda:0 \
  --recipe "quick,precision=bf16" --threads 4 --repeats 3 --out "$out/loops.json"

# ---- Studies
step 30 "estimate of the pocket study" "${ablations[@]}" run quick --data fashion_mnist --data-dir "$data" \
  --device cuda:0 --dry-run
for count in 1 2 4 8; do
  step $((count == 1 ? 60 : 50)) "the pocket study, $count per GPU" "${ablations[@]}" run quick --data fashion_mnist \
    --data-dir "$data" --device cuda:0 --budget 15000images --seeds 0 --per-gpu "$count" --out "$out/per-gpu-$count"
done
step 40 "pictures for the next step" "$python" tests/gpu_pictures.py "$out/pictures"
step 100 "paper_enhanced on generated pictures, decoded" "${ablations[@]}" train convnext_tiny --recipe paper_enhanced \
  --data imagenet --data-dir "$out/pictures" --device cuda:0 --set precision=bf16 --set batch_size=128 \
  --set max_epochs=5 --out "$out/paper_enhanced"

if [ "$listing" ]; then exit 0; fi
printf '\n== Tables\n'
echo "Anchor: timm prints 819 (convnext_tiny) and 1,218 images/s (resnet50) for training in AMP on one RTX 3090."
for one in $tables; do echo && cat -- "$out/logs/$one.txt"; done
"$python" tests/gpu_tables.py "$out" || failed=1
exit "$failed"
