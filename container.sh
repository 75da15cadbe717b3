#!/usr/bin/env bash
# Entry point of the image.
#   study PRESET [ARGUMENTS OF burnish run]  runs it, profiles its PyTorch model, leaves the results in $RESULTS
#   tensorboard                              shows the profiles of $RESULTS at port 6006
#   anything else                            is the burnish command's, e.g. `presets`
set -euo pipefail
artifacts=$RESULTS/artifacts # kept: a second run computes only what has changed

case ${1:-} in
  study)
    burnish run "${@:2}" --out "$artifacts"
    burnish profile --device auto --out "$artifacts"
    run=$(dirname "$(burnish report --out "$artifacts")")
    rm -f "$RESULTS/benchmark_results_marked.csv" # an earlier run's; this one may have none
    cp -r "$run/." "$RESULTS/"
    mkdir -p "$RESULTS/tables"
    for table in "$artifacts"/tables/*/"$(basename "$run").parquet"; do
      cp "$table" "$RESULTS/tables/$(basename "$(dirname "$table")").parquet"
    done
    ;;
  tensorboard)
    exec python -m tensorboard.main --logdir "$artifacts" --port 6006 --bind_all
    ;;
  *)
    exec burnish "$@"
    ;;
esac
