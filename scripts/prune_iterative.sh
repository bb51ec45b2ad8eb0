#!/usr/bin/env bash
# Iterative pruning: set up where needed, train a model, prune it step by step with every method while it trains on, with
# and without weight alignment, and print BLEU at one sparsity in one table.
#
#   bash scripts/prune_iterative.sh [--pair de-en] [--methods magnitude,lamp] [--sparsity 0.7] [--seeds N] [--out runs/prune]
#
# All options are those of `wff prune-iterative`. A second call reuses what is done; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" prune-iterative "$@"
