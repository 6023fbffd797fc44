#!/bin/sh
# What memorized training examples are worth, from nothing (Feldman and Zhang 2020, figure 2):
#
#     sh memorization.sh [SETTING [MODELS [SEEDS [FOLDER]]]]
#
# Models on random subsets of 70% tell how memorized each training example is; then models are trained without the most
# memorized, and without as many random ones. MNIST is downloaded where $BENCH_DATA does not name a folder that has it.
set -eu
setting=${1:-mnist/mlp:n_test=10000} models=${2:-1000} seeds=${3:-20} folder=${4:-memorization}

python -m bench train "$setting" --alpha 0.7 --models "$models" --keep correct,train-correct --out "$folder/store"
python -m bench memorization "$folder/store" --out "$folder/estimates"
python -m bench removal "$folder/store" --seeds "$seeds" --out "$folder/removal"
