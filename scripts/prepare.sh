#!/usr/bin/env bash
# Prepare a data set for fairseq: download its archives or use yours, and binarise them. Runs setup.sh first.
#
#   bash scripts/prepare.sh iwslt14 [--langs de,es] [--recipe clean] [--archive FILE ...] [--out data/iwslt14] [--jobs N]
#   bash scripts/prepare.sh wmt17 --archive ~/Downloads/wmt17 --jobs 16
#   bash scripts/prepare.sh glue --archive ~/glue_data --encoder ~/roberta.base [--tasks RTE,CoLA]
#
# All options are those of `wff prepare`; --dry-run prints what would be done. The variables PAIRS, LANGS, TASKS, RECIPE,
# PIECES, ARCHIVE, ENCODER, OUT and JOBS set the options of these names. A second call does nothing; after a kill it
# resumes.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "PAIRS LANGS TASKS RECIPE PIECES ARCHIVE ENCODER OUT JOBS" prepare "$@"
