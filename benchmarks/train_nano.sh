#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. One or two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# Everything goes on from the version before, which the history holds with the script that made it: S and the
# foreground network are those of commit 78da8c2, codec and networks begin as its codec and networks.
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
mkdir -p "$work/earlier"
export OMP_NUM_THREADS=1
module="python -m dp3d_cli.training"
two="python -m torch.distributed.run --standalone --nproc_per_node 2 -m --"
git archive 78da8c2 dp3d_cli/core/weights/nano | tar -x -C "$work/earlier" --strip-components 3

# Heads, each group from 8 shared cameras.
$module.cache --preset presets/train/nano-data.yaml --split train --shards 0:200 --output "$work/heads"
$module.cache --preset presets/train/nano-data.yaml --split val --shards 0:6 --output "$work/val-heads"

# The same codec and networks on latents whose channels all have standard deviation 1.
python - "$work" <<'END'
import shutil
import sys
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from dp3d_cli.training.cache import read_shard, shard_folders
from dp3d_cli.training.codec import to_tensor, whiten

work = Path(sys.argv[1])
start = shutil.copytree(work / "earlier/nano", work / "start")
vae = AutoencoderKL.from_pretrained(start / "vae").float().eval()
heads = [read_shard(folder).images[0] for folder in shard_folders(work / "heads")[:16]]
deviation = whiten(vae, to_tensor(np.concatenate(heads)))
vae.save_pretrained(start / "vae")
for name in ("unet", "reference_unet", "controlnet"):
    file = start / name / "diffusion_pytorch_model.safetensors"
    tensors = {key: value.float() for key, value in load_file(file).items()}
    tensors["conv_in.weight"] *= deviation.view(1, -1, 1, 1)
    if name == "unet":
        tensors["hint_conv_in.weight"][:, : len(deviation)] *= deviation.view(1, -1, 1, 1)
        tensors["conv_out.weight"] /= deviation.view(-1, 1, 1, 1)
        tensors["conv_out.bias"] /= deviation
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
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

# The fusion network: first on proxies alone, which needs no trained networks; then on their views, of the same
# heads varied as before (shards 0 to 109) and varied less (shards 10000 to 10109).
$module.fusion train --preset presets/train/fusion-start.yaml --latents "$work/latents" \
    --validation "$work/val-latents" --run "$work/fusion-start"
mkdir -p "$work/few" "$work/both" "$work/both-latents"
for number in $(seq -f %05.0f 0 109); do
    ln -sfn "$work/heads/$number" "$work/few/$number"
done
$encode --shards "$work/few" --output "$work/latents-light" --seed 8 --strength 0.3
for number in $(seq -f %04.0f 0 109); do
    for place in 0 1; do
        ln -sfn "$work/heads/0$number" "$work/both/$place$number"
    done
    ln -sfn "$work/latents/0$number" "$work/both-latents/0$number"
    ln -sfn "$work/latents-light/0$number" "$work/both-latents/1$number"
done
views="$module.fusion views --weights $work/nano"
$views --shards "$work/both" --latents "$work/both-latents" --output "$work/views"
$views --shards "$work/val-heads" --latents "$work/val-latents" --output "$work/val-views"
learn="$two dp3d_cli.training.fusion train --latents $work/both-latents --views $work/views"
learn="$learn --validation $work/val-latents --validation-views $work/val-views"
$learn --preset presets/train/fusion.yaml --start "$work/fusion-start" --run "$work/fusion"
$learn --preset presets/train/fusion-end.yaml --start "$work/fusion" --run "$work/fusion-end"
$module.fusion export --run "$work/fusion" "$work/fusion-end" --weights "$work/nano"
