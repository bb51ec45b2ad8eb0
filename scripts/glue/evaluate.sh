#!/usr/bin/env bash
# Predict dev and test of a task of GLUE with the best and the last checkpoint of runs, score dev, and write what GLUE's
# server takes for the test.
#
#   bash scripts/glue/evaluate.sh runs/glue/roberta/rte/weighted_freeze-1 [...] [--choices best] [--json]
#
# All options are those of `wff evaluate`; CHOICES stands for the option of this name. Set up where needed.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "CHOICES" evaluate "$@"
