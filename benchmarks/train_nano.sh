#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. One or two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# Everything goes on from the version before, which the history holds with the script that made it: S, codec,
# foreground and fusion network are those of commit b3b6a54, the other networks begin as its. Only the reference
# network begins anew, as a copy of the backbone: what it had learned told places, but hardly any colours.
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
mkdir -p "$work/earlier"
export OMP_NUM_THREADS=1
module="python -m dp3d_cli.training"
two="python -m torch.distributed.run --standalone --nproc_per_node 2 -m --"
git archive b3b6a54 dp3d_cli/core/weights/nano | tar -x -C "$work/earlier" --strip-components 3

# Heads, each group from 8 shared cameras.
$module.cache --preset presets/train/nano-data.yaml --split train --shards 0:200 --output "$work/heads"
$module.cache --preset presets/train/nano-data.yaml --split val --shards 0:6 --output "$work/val-heads"

python - "$work" <<'END'
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

work = Path(sys.argv[1])
start = shutil.copytree(work / "earlier/nano", work / "start")
unet, reference_unet = (
    start / name / "diffusion_pytorch_model.safetensors" for name in ("unet", "reference_unet")
)
backbone = load_file(unet)
save_file({name: backbone[name].clone() for name in load_file(reference_unet)}, reference_unet)
END
codec="$work/start/vae"

# What the networks learn on: proxies of S, pictures varied as photographs are.
encode="$module.latents --codec $codec --proxy $work/earlier/nano"
$encode --shards "$work/heads" --output "$work/latents" --seed 4
$encode --shards "$work/val-heads" --output "$work/val-latents" --seed 5
networks="--codec $codec --shards $work/heads --latents $work/latents --output $work/networks"
$two dp3d_cli.training.nano --preset presets/train/nano.yaml $networks --start "$work/start" \
    --validation "$work/val-heads" "$work/val-latents"
$module.nano --preset presets/train/nano.yaml $networks --export "$work/nano"
cp -r "$work/earlier/nano/proxy" "$work/nano/proxy"

# The fusion network is the earlier one: going on with the views of these networks (400 steps like fusion-end.yaml's)
# made held-out heads sharper, but no better.
$module.fusion export --run "$work/earlier/nano" --weights "$work/nano"
