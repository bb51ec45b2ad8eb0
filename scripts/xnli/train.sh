#!/usr/bin/env bash
# Fine-tune a pretrained multilingual encoder on the English of XNLI; called again, it goes on. Set up where needed.
#
#   bash scripts/xnli/train.sh --encoder ~/xlmr.large [--method weighted_freeze] [--seed 1] [--out runs/xnli]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# METHOD, SEED, ENCODER, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "METHOD SEED ENCODER RECIPE DATA OUT GPUS PRECISION" train xnli "$@"
