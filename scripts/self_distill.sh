#!/usr/bin/env bash
# Self-distillation: set up where needed, train a model, then students of the same shape, each taught by the model of the
# round before, and print BLEU and chrF of every round in one table.
#
#   bash scripts/self_distill.sh [--pair de-en] [--rounds N] [--seeds N] [--ensemble] [--out runs/self_distill]
#
# All options are those of `wff self-distill`. A second call reuses what is done; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" self-distill "$@"
