#!/usr/bin/env bash
# Predict dev and test of XNLI in every language with the best and the last checkpoint of runs, and score them.
#
#   bash scripts/xnli/evaluate.sh runs/xnli/xlmr/en/weighted_freeze-1 [...] [--choices best] [--json]
#
# All options are those of `wff evaluate`; CHOICES stands for the option of this name. Set up where needed.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "CHOICES" evaluate "$@"
