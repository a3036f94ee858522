#!/usr/bin/env bash
# The sample network -> an engine and its speed; not zero if it became slower than the last time.
#
#     [ENGINE=FOLDER] [SIZE=64x96] [RUNS=3] examples/ci/bench.sh FOLDER
#
# ENGINE names one of your own to time instead.
# FOLDER keeps last-PROCESSOR.json, one for each processor that the job ever met, and new.json.
# One thread at a small size is what machines in the cloud repeat best (0.3 % between processes,
# against 10 % for two threads that share memory with strangers); three runs show the spread.
set -euo pipefail
folder=$(mkdir -p "${1:?usage: examples/ci/bench.sh FOLDER}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."

engine=${ENGINE:-$folder/engine}
if [[ -z ${ENGINE:-} ]]; then
    nmcompile examples/sample/sample_sr_x2.safetensors --arch examples.models.sample:sample_sr_x2 \
        --task sr:2 --range 0..1 --input 1x3x64x96 --uniform 2:4 --crops 8 --threads 1 -o "$engine"
fi

rm -f "$folder"/run-*.json
for run in $(seq "${RUNS:-3}"); do
    nmcompile bench "$engine" --threads 1 --size "${SIZE:-64x96}" --json >"$folder/run-$run.json"
done
{
    separator='['
    for found in "$folder"/run-*.json; do
        echo "$separator"
        cat "$found"
        separator=','
    done
    echo ']'
} >"$folder/new.json"

processor=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["cpu"])' \
    "$folder/new.json" | tr -cs 'A-Za-z0-9\n' -)
last=$folder/last-$processor.json
if [[ -f $last ]]; then
    nmcompile bench compare "$last" "$folder/new.json" --fail-slower 5%
else
    echo "the first time on this processor: nothing to compare with"
fi
cp "$folder/new.json" "$last"
