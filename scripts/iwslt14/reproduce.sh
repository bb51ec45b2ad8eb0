#!/usr/bin/env bash
# From the archives of IWSLT'14 to tables: prepare, train, evaluate and report a matrix of methods, pairs and seeds.
#
#   bash scripts/iwslt14/reproduce.sh [--methods standard,weighted_freeze] [--pairs de-en] [--seeds 1,2,3] [--jobs N]
#
# All options are those of `wff reproduce`; --dry-run says what is done and what is left to do, --list prints the cells
# for a scheduler. A second call reuses what is done; a killed one goes on. The variables PAIRS, METHODS, SEEDS,
# RECIPE, DATA, OUT, JOBS, GPUS, PRECISION and ARCHIVE stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "PAIRS METHODS SEEDS RECIPE DATA OUT JOBS GPUS PRECISION ARCHIVE" reproduce iwslt14 "$@"
