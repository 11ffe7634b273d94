#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. One or two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# Everything goes on from the version before, which the history holds with the script that made it: S, codec and
# foreground network are those of commit b3b6a54, networks and fusion network begin as its. Only the reference
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
cp -r "$work/earlier/nano/fusion" "$work/nano/fusion"

# The fusion network goes on with the views of these networks: heads varied as before (shards 30 to 89), and
# heads whose colours and crops vary less (0 to 28).
mkdir -p "$work/few" "$work/both" "$work/both-latents"
for number in $(seq -f %05.0f 0 28); do
    ln -sfn "$work/heads/$number" "$work/few/$number"
done
$encode --shards "$work/few" --output "$work/latents-light" --seed 8 --strength 0.3
for number in $(seq -f %04.0f 30 89); do
    ln -sfn "$work/heads/0$number" "$work/both/0$number"
    ln -sfn "$work/latents/0$number" "$work/both-latents/0$number"
done
for number in $(seq -f %04.0f 0 28); do
    ln -sfn "$work/heads/0$number" "$work/both/1$number"
    ln -sfn "$work/latents-light/0$number" "$work/both-latents/1$number"
done
views="$module.fusion views --weights $work/nano"
$views --shards "$work/both" --latents "$work/both-latents" --output "$work/views"
$views --shards "$work/val-heads" --latents "$work/val-latents" --output "$work/val-views"
$two dp3d_cli.training.fusion train --preset presets/train/fusion-end.yaml --start "$work/earlier/nano" \
    --latents "$work/both-latents" --views "$work/views" --run "$work/fusion" \
    --validation "$work/val-latents" --validation-views "$work/val-views"
$module.fusion export --run "$work/fusion" --weights "$work/nano"
