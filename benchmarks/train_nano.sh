#!/bin/sh
# How the embedded nano weights were made, from nothing but this repository, its history and its installed
# dependencies. Two processes of one thread each; times: MODEL_CARD.md beside the weights.
#
#   benchmarks/train_nano.sh WORK_FOLDER
#
# Everything goes on from earlier versions, which the history holds with the scripts that made them: the
# networks from commit 20a0f20, S from the mean of its states in 72913a1 and 20a0f20.
set -eu
work=${1:?usage: benchmarks/train_nano.sh WORK_FOLDER}
mkdir -p "$work"
export OMP_NUM_THREADS=1
module="python -m dp3d_cli.training"
two="accelerate launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no -m"

for commit in 72913a1 20a0f20; do
    mkdir -p "$work/$commit"
    git archive $commit dp3d_cli/core/weights/nano | tar -x -C "$work/$commit" --strip-components 3
done
earlier="$work/20a0f20/nano"
codec="$earlier/vae" # presets/train/nano-codec.yaml: $module.codec --preset presets/train/nano-codec.yaml

# The foreground network.
$module.rendered --split train --first 20000 --heads 900 --views 6 --size 256 "$work/heads"
$module.foreground train --preset presets/train/foreground.yaml --data "$work/heads" --run "$work/foreground"
$module.foreground export --run "$work/foreground" \
    --output dp3d_cli/core/proxies/foreground_weights/foreground.safetensors

# S: first on true masks with dented outlines, then mostly on those that the foreground network finds, last
# with turned portraits.
python - "$work" <<'END'
import sys
from pathlib import Path

import torch

from dp3d_cli.core.proxies.volume import VolumeProxy

work = Path(sys.argv[1])
one, other = (VolumeProxy.from_pretrained(work / commit / "nano/proxy") for commit in ("72913a1", "20a0f20"))
tensors = other.state_dict()
one.load_state_dict({name: (value.float() + tensors[name].float()) / 2 for name, value in one.state_dict().items()})
one.to(torch.float16).save_pretrained(work / "proxy-0/proxy", safe_serialization=True)
END
proxy="dp3d_cli train proxy --preset nano-proxy-masks -s data=$work/heads --device cpu"
python -m $proxy --start "$work/proxy-0" -o "$work/proxy-1" -s segmented=0 -s turned=0 -s loop.steps=450 \
    -s loop.decay_steps=150 -s loop.validate_every=450 -s loop.seed=3
$two $proxy --start "$work/proxy-1/export" -o "$work/proxy-2" -s turned=0 -s loop.steps=407 \
    -s loop.decay_steps=0 -s loop.validate_every=407 -s loop.seed=4
$two $proxy --start "$work/proxy-2/export" -o "$work/proxy-3"

# The networks, on the proxies of S.
$module.cache --preset presets/train/nano-data.yaml --split train --shards 0:200 --output "$work/train"
$module.cache --preset presets/train/nano-data.yaml --split val --shards 0:6 --output "$work/val"
encode="$module.latents --codec $codec --proxy $work/proxy-3/export"
$encode --shards "$work/train" --output "$work/latents" --seed 4
$encode --shards "$work/val" --output "$work/val-latents" --seed 5
networks="--codec $codec --shards $work/train --latents $work/latents --output $work/run"
$two dp3d_cli.training.nano --preset presets/train/nano.yaml $networks --start "$earlier" \
    --validation "$work/val" "$work/val-latents"
$module.nano --preset presets/train/nano.yaml $networks --export "$work/nano"
cp -r "$work/proxy-3/export/proxy" "$work/nano/proxy"
