#!/usr/bin/env bash
# Prepare a data set: fetch its archives or take yours, and go on to what fairseq trains on. Sets up where needed.
#
#   bash scripts/prepare.sh iwslt14 [--langs de,es] [--recipe clean] [--archive FILE ...] [--out data/iwslt14] [--jobs N]
#   bash scripts/prepare.sh wmt17 --archive ~/Downloads/wmt17 --jobs 16
#   bash scripts/prepare.sh glue --archive ~/glue_data --encoder ~/roberta.base [--tasks RTE,CoLA]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables PAIRS, LANGS, TASKS, RECIPE,
# PIECES, ARCHIVE, ENCODER, OUT and JOBS stand for the options of these names. A second call does nothing; a killed one
# goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "PAIRS LANGS TASKS RECIPE PIECES ARCHIVE ENCODER OUT JOBS" prepare "$@"
