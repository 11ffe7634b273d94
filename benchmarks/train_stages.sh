#!/bin/sh
# Short runs of the paper's stages at nano size, one after another as `dp3d train` makes them, for the curves in
# results/training/: benchmarks/training_curves.py draws them. One process of one thread; settings that differ
# from presets/train/nano-stages.yaml are here. What they make is not what is embedded.
#
#   benchmarks/train_stages.sh WORK_FOLDER
#
set -eu
work=${1:?usage: benchmarks/train_stages.sh WORK_FOLDER}
export OMP_NUM_THREADS=1

stage() { # name, steps, steps of decay, further options
    name=$1 steps=$2 decay=$3
    shift 3
    python -m dp3d_cli train "$name" -p nano-stages -o "$work/$name" --device cpu -s data=procedural:200 \
        -s held_out=procedural:8 -s "loop.steps=$steps" -s "loop.decay_steps=$decay" -s loop.warmup_steps=20 \
        -s loop.ema_decay=0.98 -s loop.log_every=10 -s loop.save_every=50 -s loop.validate_every=100 \
        -s loop.workers=0 "$@"
}

stage vae 600 200
stage backbone 300 100 --start "$work/vae" -s step.batch=8
stage reference 200 80 --start "$work/backbone" -s step.batch=8
stage camera 200 80 --start "$work/reference" -s step.batch=8
stage views 120 50 --start "$work/camera" -s step.batch=8
