#!/usr/bin/env bash
# All GPU cases, under nine minutes on one H100 or H200: `bash benchmarks/gpu.sh [OUTPUT [OPTIONS of speed.py]]`.
# Results carry the GPU's name. SIZES=shapes DEVICE=cpu bash benchmarks/gpu.sh tries the script on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-runs/benchmarks}
options=("${@:2}")
python=${PYTHON:-python}
device=${DEVICE:-cuda}
run() {
  HF_HUB_OFFLINE=1 "$python" benchmarks/speed.py --device "$device" --output "$output" --repeats 1 "$@" "${options[@]}"
}
for size in ${SIZES:-1b 7b medium}; do
  case $size in
    1b) run --size 1b --pairs 16 --rollouts 8 --peer_prompts 2 --step_pairs 2 ;;
    7b) run --size 7b --cases image text --pairs 16 --rollouts 4 --peer_prompts 2 ;;
    *) run --size "$size" --peer_prompts 2 --step_pairs 2 ;;
  esac
done
if [ "$device" = cuda ]; then "$python" benchmarks/kernel.py --output "$output"; fi
