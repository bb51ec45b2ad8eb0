#!/usr/bin/env bash
# Train one method on IWSLT'14; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/iwslt14/train.sh [--pair de-en] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/iwslt14]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# PAIR, METHOD, SEED, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "PAIR METHOD SEED RECIPE DATA OUT GPUS PRECISION" train iwslt14 "$@"
