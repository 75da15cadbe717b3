#!/usr/bin/env bash
# Builds the image, runs a study in it and leaves benchmark_results.csv, report.html, tables/ and profiles/ in a folder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat << 'END'
usage: ./build_and_run.sh [OPTIONS] [-- ARGUMENTS OF burnish run]

  --output-dir DIR     where results go (default: ./test_results)
  --preset NAME        study to run (default: densenet121-imagenet)
  --scale SCALE        smoke, cpu or full (default: smoke, on digits; for the default preset with --data: full with a GPU,
                       cpu without)
  --data DIR           images, mounted read-only; sets data.path
  --device DEVICE      cpu, cuda or auto: cuda where nvidia-smi works (default: auto)
  --tensorboard        then show the profile at http://localhost:6006, until Ctrl-C
  --help               this text

for example: ./build_and_run.sh --output-dir ./test_results --data ~/imagenet -- --set data.test_limit=1024
END
}

refuse() {
  echo "build_and_run.sh: $1" >&2
  exit 2
}

output=./test_results preset=densenet121-imagenet device=auto scale='' data='' tensorboard=''
while (($#)); do
  case $1 in
    --output-dir | --preset | --scale | --data | --device)
      [[ $# -ge 2 && -n $2 ]] || refuse "$1 needs a value"
      ;;&
    --output-dir) output=$2 ;;
    --preset) preset=$2 ;;
    --scale) scale=$2 ;;
    --data) data=$2 ;;
    --device) device=$2 ;;
    --tensorboard) tensorboard=1 ;;
    --help | -h) usage && exit ;;
    --) break ;;
    *) refuse "unknown option $1; see --help" ;;
  esac
  [[ $1 == --tensorboard ]] || shift
  shift
done
[[ ${1:-} != -- ]] || shift # the rest is for burnish run

[[ $device != auto ]] || { nvidia-smi > /dev/null 2>&1 && device=cuda || device=cpu; }
[[ $device =~ ^(cpu|cuda)$ ]] || refuse "--device $device: accepted are cpu, cuda, auto"
[[ $scale =~ ^(|smoke|cpu|full)$ ]] || refuse "--scale $scale: accepted are smoke, cpu, full"
[[ -z $data || $scale != smoke ]] || refuse "--data: --scale smoke has its own images; accepted are cpu, full"
if [[ -n $data && -z $scale && $preset == densenet121-imagenet ]]; then
  [[ $device == cuda ]] && scale=full || scale=cpu
fi
[[ -z $data || -d $data ]] || refuse "--data $data: no such folder"

engine=''
for one in docker podman; do
  if command -v "$one" > /dev/null && "$one" info > /dev/null 2>&1; then
    engine=$one
    break
  fi
done
[[ -n $engine ]] || refuse "no container engine: neither docker nor podman answers (is the daemon running?)"

mkdir -p "$output"
output=$(cd "$output" && pwd)
image=burnish:$device
# --shm-size: images travel from PyTorch's workers through shared memory.
options=(--rm --shm-size 2g --security-opt label=disable --mount "type=bind,source=$output,target=/results")
[[ ! -t 0 || ! -t 1 ]] || options+=(--interactive --tty)
if ((EUID == 0)); then
  chown 1000 "$output" # the image's own user
else
  [[ $engine == docker ]] || options+=(--userns keep-id)
  options+=(--user "$(id -u):$(id -g)")
fi
if [[ $device == cpu ]]; then
  options+=(--init) # signals reach what runs, which else is process 1
else
  options+=(--pid host) # the driver knows processes by the host's numbers: each one's GPU memory is found by its own
  [[ $engine == docker ]] && options+=(--gpus all) || options+=(--device nvidia.com/gpu=all)
fi
study=("$preset")
[[ -z $scale ]] || study+=(--scale "$scale")
mounts=()
if [[ -n $data ]]; then
  mounts=(--mount "type=bind,source=$(cd "$data" && pwd),target=/data,readonly")
  study+=(--set data.path=/data)
fi

DOCKER_BUILDKIT=1 "$engine" build --build-arg "DEVICE=$device" --tag "$image" "$here"
"$engine" run "${options[@]}" "${mounts[@]}" "$image" study "${study[@]}" "$@"
echo "results: $output/benchmark_results.csv, $output/report.html, $output/tables/"
if [[ -n $tensorboard ]]; then
  echo "TensorBoard: http://localhost:6006 (Ctrl-C ends it)"
  exec "$engine" run "${options[@]}" --publish 127.0.0.1:6006:6006 "$image" tensorboard
fi
