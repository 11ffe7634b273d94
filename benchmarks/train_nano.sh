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

$module.rendered --split train --first 20000 --heads 900 --views 7 --size 256 "$work/heads"
$two dp3d_cli train proxy --preset nano-proxy -s data="$work/heads" -o "$work/proxy" --device cpu

$module.cache --preset presets/train/nano-data.yaml --split train --shards 0:200 --output "$work/train"
$module.cache --preset presets/train/nano-data.yaml --split val --shards 0:6 --output "$work/val"
$module.latents --codec "$codec" --proxy "$work/proxy/export" --shards "$work/train" --output "$work/latents"
$module.latents --codec "$codec" --proxy "$work/proxy/export" --shards "$work/val" --output "$work/val-latents" \
    --seed 1

networks="--preset presets/train/nano.yaml --codec $codec --shards $work/train --latents $work/latents"
$two dp3d_cli.training.nano $networks --validation "$work/val" "$work/val-latents" --start "$earlier" \
    --output "$work/run"
$module.nano $networks --output "$work/run" --export "$work/nano"
cp -r "$work/proxy/export/proxy" "$work/nano/proxy"
