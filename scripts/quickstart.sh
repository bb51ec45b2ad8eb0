#!/usr/bin/env bash
# Train standard, weighted_freeze and intra_distillation on the embedded corpus, and compare them. Runs setup.sh first.
#
#   bash scripts/quickstart.sh [--pair de-en] [--methods standard,weighted_freeze,intra_distillation] [--seeds 1-3]
#     [--corpus small] [--out runs/quickstart]
#
# All options are those of `wff quickstart`. Under 5 minutes on 2 cores after setup; a second call reuses what is done.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" quickstart "$@"
