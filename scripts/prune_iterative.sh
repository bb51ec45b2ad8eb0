#!/usr/bin/env bash
# Iterative pruning: train a model, prune it step by step with every method during further training, with and without
# weight alignment, and print a table of BLEU at one sparsity. Runs setup.sh first.
#
#   bash scripts/prune_iterative.sh [--pair de-en] [--methods magnitude,lamp] [--sparsity 0.7] [--seeds 1-3] [--out runs/prune]
#
# All options are those of `wff prune-iterative`. A second call reuses finished steps; after a kill it resumes.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" prune-iterative "$@"
