#!/usr/bin/env bash
# From the files of tasks of GLUE to tables: prepare, train, evaluate and report a matrix of methods and seeds.
#
#   bash scripts/glue/reproduce.sh --archive ~/glue_data --encoder ~/roberta.base [--tasks RTE,CoLA] [--seeds 1,2,3]
#
# All options are those of `wff reproduce`; --dry-run says what is done and what is left to do, --list prints the cells
# for a scheduler. A second call reuses what is done; a killed one goes on. The variables TASKS, METHODS, SEEDS,
# ENCODER, DATA, OUT, JOBS, GPUS, PRECISION and ARCHIVE stand for the options of these names.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "TASKS METHODS SEEDS ENCODER DATA OUT JOBS GPUS PRECISION ARCHIVE" reproduce glue "$@"
