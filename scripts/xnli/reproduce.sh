#!/usr/bin/env bash
# From the files of XNLI to tables: prepare, train, evaluate and report a matrix of methods and seeds.
#
#   bash scripts/xnli/reproduce.sh --archive ~/XNLI-1.0.zip ~/XNLI-MT-1.0.zip --encoder ~/xlmr.large [--seeds 1,2,3]
#
# All options are those of `wff reproduce`; --dry-run says what is done and what is left to do, --list prints the cells
# for a scheduler. A second call reuses what is done; a killed one goes on. The variables METHODS, SEEDS,
# ENCODER, DATA, OUT, JOBS, GPUS, PRECISION and ARCHIVE stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "METHODS SEEDS ENCODER DATA OUT JOBS GPUS PRECISION ARCHIVE" reproduce xnli "$@"
