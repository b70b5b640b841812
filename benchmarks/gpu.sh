#!/usr/bin/env bash
# All GPU cases, under nine minutes on one H100 or H200: `bash benchmarks/gpu.sh [OUTPUT]`. Results carry the GPU's name.
# SIZES=shapes DEVICE=cpu bash benchmarks/gpu.sh tries the script on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/benchmarks}
python=${PYTHON:-python}
device=${DEVICE:-cuda}
run() { HF_HUB_OFFLINE=1 "$python" benchmarks/speed.py --device "$device" --output "$output" "$@"; }
for size in ${SIZES:-medium 1b 7b}; do
  case $size in
    7b) run --size 7b --cases image --pairs 16 --rollouts 4 --repeats 1 ;;
    1b) run --size 1b --cases image text update --pairs 16 --rollouts 8 --repeats 1
        run --size 1b --cases step --pairs 4 --rollouts 8 --repeats 1 --name 1b_step ;;
    *) run --size "$size" --repeats 1 ;;
  esac
done
