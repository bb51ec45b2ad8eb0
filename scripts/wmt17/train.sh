#!/usr/bin/env bash
# Train one method on WMT'17 En-De; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/wmt17/train.sh [--pair en-de] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/wmt17]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# PAIR, METHOD, SEED, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "PAIR METHOD SEED RECIPE DATA OUT GPUS PRECISION" train wmt17 "$@"
