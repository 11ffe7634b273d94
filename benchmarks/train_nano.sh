#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. One or two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# Everything goes on from the version before, which the history holds with the script that made it: the
# networks are those of commit 6fb5033, whose fusion network goes on here, on faces unlike procedural ones.
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
mkdir -p "$work"
export OMP_NUM_THREADS=1
module="python -m dp3d_cli.training"
two="python -m torch.distributed.run --standalone --nproc_per_node 2 -m --"
git archive 6fb5033 dp3d_cli/core/weights/nano | tar -x -C "$work" --strip-components 3
nano="$work/nano"

# Heads, each group from 8 shared cameras; their proxies by S, pictures varied as photographs are; and what the
# networks make of these.
prepare() { # split, shards, seed, strength
    $module.cache --preset presets/train/nano-data.yaml --split "$1" --shards "$2" --output "$work/$1/heads"
    $module.latents --codec "$nano/vae" --proxy "$nano" --shards "$work/$1/heads" --output "$work/$1/latents" \
        --seed "$3" --strength "$4"
    $module.fusion views --weights "$nano" --shards "$work/$1/heads" --latents "$work/$1/latents" \
        --output "$work/$1/views"
}
prepare train 0:200 4 0.6
prepare val 0:6 6 0.3

fuse() { # preset, start, run
    $two dp3d_cli.training.fusion train --preset "presets/train/$1.yaml" --start "$2" --run "$3" \
        --latents "$work/train/latents" --views "$work/train/views" \
        --validation "$work/val/latents" --validation-views "$work/val/views"
}
fuse fusion "$nano" "$work/fusion"
fuse fusion-end "$work/fusion" "$work/fusion-end"
$module.fusion export --run "$work/fusion-end" --weights "$nano"
