#!/usr/bin/env bash
# Self-distillation: train a model, then students of the same shape, each taught by the model of the previous round, and
# print a table of BLEU and chrF of every round. Runs setup.sh first.
#
#   bash scripts/self_distill.sh [--pair de-en] [--rounds N] [--seeds 1-3] [--ensemble] [--out runs/self_distill]
#
# All options are those of `wff self-distill`. A second call reuses finished steps; after a kill it resumes.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" self-distill "$@"
