#!/usr/bin/env bash
# Translate or label the test sets of runs with the best, the last and the averaged checkpoint, and score them.
#
#   bash scripts/evaluate.sh runs/iwslt14/clean/de-en/weighted_freeze-1 [...] [--choices best,last] [--json]
#   bash scripts/evaluate.sh runs/glue/roberta/rte/weighted_freeze-1 [...] [--choices best] [--json]
#
# All options are those of `wff evaluate`; the variables CHOICES and BEAM set the options of these names. Runs setup.sh
# first.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "CHOICES BEAM" evaluate "$@"
