#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. Two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# The networks go on from those of an earlier version, which commit b63b7c0 holds with the script that made them.
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
mkdir -p "$work"
export OMP_NUM_THREADS=1
module="python -m dp3d_cli.training"
two="accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m"

git archive b63b7c0 dp3d_cli/core/weights/nano | tar -x -C "$work"
earlier="$work/dp3d_cli/core/weights/nano"
codec="$earlier/vae" # presets/train/nano-codec.yaml: $module.codec --preset presets/train/nano-codec.yaml

# S: on masks with dented outlines, then also on masks as the tool finds them.
$module.rendered --split train --first 20000 --heads 900 --views 7 --size 256 "$work/heads"
$two dp3d_cli train proxy --preset nano-proxy -s data="$work/heads" -o "$work/proxy-1" --device cpu
$two dp3d_cli train proxy --preset nano-proxy-masks -s data="$work/heads" --start "$work/proxy-1" \
    -o "$work/proxy-2" --device cpu

# The networks: on the proxies of the first S, then on those of the second.
$module.cache --preset presets/train/nano-data.yaml --split train --shards 0:200 --output "$work/train"
$module.cache --preset presets/train/nano-data.yaml --split val --shards 0:6 --output "$work/val"
encode="$module.latents --codec $codec"
$encode --proxy "$work/proxy-1/export" --shards "$work/train" --output "$work/latents-1"
$encode --proxy "$work/proxy-1/export" --shards "$work/val" --output "$work/val-1" --seed 1
$encode --proxy "$work/proxy-2/export" --shards "$work/train" --output "$work/latents-2" --seed 2
$encode --proxy "$work/proxy-2/export" --shards "$work/val" --output "$work/val-2" --seed 3

networks="--codec $codec --shards $work/train"
$two dp3d_cli.training.nano --preset presets/train/nano.yaml $networks --latents "$work/latents-1" \
    --validation "$work/val" "$work/val-1" --start "$earlier" --output "$work/run-1"
$module.nano --preset presets/train/nano.yaml $networks --latents "$work/latents-1" --output "$work/run-1" \
    --export "$work/nano-1"
$two dp3d_cli.training.nano --preset presets/train/nano-masks.yaml $networks --latents "$work/latents-2" \
    --validation "$work/val" "$work/val-2" --start "$work/nano-1" --output "$work/run-2"
$module.nano --preset presets/train/nano-masks.yaml $networks --latents "$work/latents-2" --output "$work/run-2" \
    --export "$work/nano"
cp -r "$work/proxy-2/export/proxy" "$work/nano/proxy"
