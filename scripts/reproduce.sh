#!/usr/bin/env bash
# From the archives of a data set to tables: prepare, train, evaluate and report a matrix of methods, pairs and seeds.
#
#   bash scripts/reproduce.sh multi30k [--methods standard,weighted_freeze] [--pairs de-en] [--seeds 1,2,3] [--jobs N]
#   bash scripts/reproduce.sh glue --archive ~/glue_data --encoder ~/roberta.base [--tasks RTE,CoLA] [--seeds 1,2,3]
#
# All options are those of `wff reproduce`; --dry-run prints what is done and what is left to do, --list prints the cells
# for a scheduler. A second call reuses finished steps; after a kill it resumes. The variables PAIRS, TASKS, METHODS,
# SEEDS, RECIPE, ENCODER, DATA, OUT, JOBS, GPUS, PRECISION and ARCHIVE set the options of these names. Runs setup.sh
# first.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "PAIRS TASKS METHODS SEEDS RECIPE ENCODER DATA OUT JOBS GPUS PRECISION ARCHIVE" reproduce "$@"
