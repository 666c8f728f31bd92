#!/usr/bin/env bash
# What only a GPU can show, in eight minutes: its tests, the same bits twice, a study, the steps of the `full` preset.
#
#   bench/gpu.sh [TEXT] [OUT]    TEXT: a text file (no network is needed), OUT: a folder for logs and table (default: runs/gpu)
#   PYTHON=python3 bench/gpu.sh  another interpreter than venv's
#
# Each part has its own limit of time and fails alone; OUT/table.md says what each came to. On a machine without a GPU the
# same parts run on the CPU at the smallest sizes, to see that they run.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-venv/bin/python}
command -v "$python" >/dev/null || python=python3
text=${1:-}
out=${2:-runs/gpu}
mkdir -p "$out"
table=$out/table.md
printf '| part | seconds | outcome |\n|---|---|---|\n' > "$table"

gpu=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))')
if [ "$gpu" = 1 ]; then preset=full study=quick steps=300; else preset=smoke study=smoke steps=30; fi
corpus=()
[ -n "$text" ] && corpus=(--dataset "$text")

# part NAME SECONDS COMMAND…: its log in OUT/NAME.log, its row in the table; the last line of the log is its outcome
part() {
  local name=$1 limit=$2 status=0 begun=$SECONDS
  shift 2
  timeout --kill-after=10 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
  local said
  said=$(grep -v '^[[:space:]]*$' "$out/$name.log" | tail -n 1 | tr '|' '/' | cut -c1-160)
  case $status in 0) ;; 124|137) said="over its limit of $limit s: $said" ;; *) said="exit status $status: $said" ;; esac
  printf '| %s | %d | %s |\n' "$name" $((SECONDS - begun)) "$said" | tee -a "$table"
}

study() {  # NAME PRESET FLAG…: a study of its own, from the prepared corpus on
  "$python" train.py --preset "$2" "${corpus[@]}" --results-dir "$out/$1/results" --plots-dir "$out/$1/plots" \
    --checkpoint-dir "$out/$1/checkpoints" --overwrite "${@:3}"
}
export -f study
export python out
export corpus_flags="${corpus[*]}"

same_bits() {  # two trainings of every activation, and their weights compared
  corpus=($corpus_flags)
  for run in one two; do study "$run" smoke --trials 1 --quiet || return; done
  "$python" - "$out" <<'PYTHON'
import json, sys
from pathlib import Path
runs = [
    {path.name: [t["weights_sha256"] for t in json.loads(path.read_text(encoding="utf-8"))["trials"]]
     for path in Path(sys.argv[1], run, "results").glob("*_results.json")}
    for run in ("one", "two")
]
same = sum(runs[0][name] == runs[1].get(name) for name in runs[0])
print(f"{same} of {len(runs[0])} activations with the same bits twice")
sys.exit(same != len(runs[0]))
PYTHON
}
whole_study() { corpus=($corpus_flags); study study "$1"; }
export -f same_bits whole_study

part machine 20 "$python" -c 'import platform, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{gpu}; Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}")'
part tests 120 "$python" -m pytest -q -n 0 -m "slow or not slow" -p no:cacheprovider tests/test_gpu.py
part bits 60 bash -c same_bits
part study 120 bash -c "whole_study $study"
throughput=(bench/train_throughput.py --preset "$preset" --steps "$steps" --activations gelu --no-compile --json "$out/steps.json")
[ -n "$text" ] && throughput+=(--text "$text")
[ "$gpu" = 1 ] || throughput+=(--device cpu --side-by-side 1)
part steps 90 "$python" "${throughput[@]}"
if [ "$gpu" = 1 ]; then
  part compiled 90 "$python" "${throughput[@]/--no-compile/--compile}"
  part memory 20 nvidia-smi --query-gpu=name,memory.used,memory.total --format=csv,noheader
fi
cat "$table"
