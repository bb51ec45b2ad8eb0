#!/usr/bin/env bash
# Train one method on a prepared data set (prepare.sh); after a kill the same call resumes. Runs setup.sh first.
#
#   bash scripts/train.sh iwslt14 [--pair de-en] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/iwslt14]
#   bash scripts/train.sh glue --encoder ~/roberta.base [--task RTE] [--method weighted_freeze] [--seed 1]
#
# All options are those of `wff train`; --dry-run prints what would be trained, and where. The variables PAIR, TASK,
# METHOD, SEED, ENCODER, RECIPE, DATA, OUT, GPUS and PRECISION set the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "PAIR TASK METHOD SEED ENCODER RECIPE DATA OUT GPUS PRECISION" train "$@"
