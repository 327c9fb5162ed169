#!/usr/bin/env bash
# On a bare machine with a GPU: unpacks the parts of benchmarks.gpu.ray_parts and runs benchmarks.gpu.by_ray.
#
#   bash part-r1/ray.sh PACK PLACE OUT [steps and flags of by_ray]
#
# PACK: the folder that holds part-r1, part-r2, … What came out is in OUT: ray.jsonl, tests.log, ray-logs.tar.gz.
set -uo pipefail
pack=$1 place=$2/ray out=$3
shift 3
mkdir -p "$place/code" "$place/site" "$place/wheels" "$place/models" "$out"
if [ ! -f "$place/ready" ]; then
  cat "$pack"/part-r*/ray.whl.* >"$place/wheels/$(cat "$pack/part-r1/ray.name")"
  cp "$pack"/part-r*/*.whl "$place/wheels/"
  cp "$pack"/part-r*/models/* "$place/models/"
  tar -xzf "$pack/part-r1/code.tar.gz" -C "$place/code"
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$place/site" --upgrade "$place"/wheels/*.whl &&
    touch "$place/ready"
fi
export PYTHONPATH="$place/code:$place/site" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
cd "$place/code" || exit
python3 -m benchmarks.gpu.by_ray --place "$place" --out "$out" "$@"
tar -czf "$out/ray-logs.tar.gz" -C "$place" logs
