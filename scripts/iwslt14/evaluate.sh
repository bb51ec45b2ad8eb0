#!/usr/bin/env bash
# Translate the test sets of IWSLT'14 with the best, the last and the averaged checkpoint of runs, and score them.
#
#   bash scripts/iwslt14/evaluate.sh runs/iwslt14/clean/de-en/weighted_freeze-1 [...] [--choices best,last] [--json]
#
# All options are those of `wff evaluate`; CHOICES and BEAM stand for the options of these names. Set up where needed.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "CHOICES BEAM" evaluate "$@"
