#!/usr/bin/env bash
# Fine-tune a pretrained encoder on one task of GLUE; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/glue/train.sh --encoder ~/roberta.base [--task RTE] [--method weighted_freeze] [--seed 1] [--out runs/glue]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# TASK, METHOD, SEED, ENCODER, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "TASK METHOD SEED ENCODER RECIPE DATA OUT GPUS PRECISION" train glue "$@"
