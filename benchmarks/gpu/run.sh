#!/usr/bin/env bash
# On a bare machine with a GPU: unpacks the parts of benchmarks.gpu.pack and runs stages of benchmarks.gpu.steps.
#
#   bash part-1/run.sh PACK PLACE [STAGE MINUTES] …     for example: … speed 2 figshare 1 folds 3 systems 2
#
# PACK: the folder that holds part-1, part-2, …; more parts may be added between two calls. It goes on where it
# was cut off: a training that is done is not repeated. What came out is in PLACE/out.
set -euo pipefail
pack=$1 place=$2
shift 2
mkdir -p "$place/code" "$place/site" "$place/brats" "$place/figshare" "$place/begin" "$place/out"
if [ -f "$pack/part-1/code.tar.gz" ]; then
  tar -xzf "$pack/part-1/code.tar.gz" -C "$place/code"
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$place/site" --upgrade "$pack"/part-1/*.whl
fi
for part in "$pack"/part-*; do
  for kind in brats figshare begin; do
    [ ! -d "$part/$kind" ] || cp -n "$part/$kind"/* "$place/$kind/"
  done
done
export PYTHONPATH="$place/code:$place/site" PYTHONUNBUFFERED=1
cd "$place/code"
while [ $# -ge 2 ]; do
  python3 -m benchmarks.gpu.steps "$1" --place "$place" --minutes "$2"
  shift 2
done
