#!/usr/bin/env bash
# Domain adaptation: train a model on one domain, adapt it to another with plain fine-tuning, ewc, fish_mask and lfr_cm,
# and print a table of BLEU on the old and on the new domain. Runs setup.sh first.
#
#   bash scripts/adapt.sh [--pair de-en] [--methods standard,ewc,fish_mask,lfr_cm] [--seeds 1-3] [--out runs/adapt]
#
# All options are those of `wff adapt`. A second call reuses finished steps; after a kill it resumes.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" adapt "$@"
