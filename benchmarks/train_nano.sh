#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository and its installed dependencies.
# One thread per process; the shard makers may run beside the training. Times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
shards=${SHARDS:-130}
export OMP_NUM_THREADS=1
train="python -m dp3d_cli.training"

$train.codec --preset presets/train/nano-codec.yaml --output "$work/codec"
$train.cache --preset presets/train/nano-data.yaml --split train --shards "0:$shards" --output "$work/train"
$train.cache --preset presets/train/nano-data.yaml --split test --shards 0:8 --output "$work/test"
$train.latents --codec "$work/codec/vae" --shards "$work/train" --output "$work/latents"
$train.nano --preset presets/train/nano.yaml --codec "$work/codec/vae" --shards "$work/train" \
    --latents "$work/latents" --output "$work/run"
$train.nano --preset presets/train/nano.yaml --codec "$work/codec/vae" --shards "$work/train" \
    --latents "$work/latents" --output "$work/run" --export "$work/nano" \
    --mean-of "$work/run/checkpoint-950.pt" "$work/run/checkpoint-1400.pt" "$work/run"
python benchmarks/nano_gate.py --weights "$work/nano" --shards "$work/test" --output "$work/gate.json" \
    --sheet "$work/gate.png"
