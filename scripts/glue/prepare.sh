#!/usr/bin/env bash
# Prepare tasks of GLUE from its own files, in the subwords of a pretrained encoder, as fairseq trains on them.
#
#   bash scripts/glue/prepare.sh --archive ~/glue_data --encoder ~/roberta.base [--tasks RTE,CoLA] [--out data/glue] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables TASKS, ARCHIVE, ENCODER, OUT and
# JOBS stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "TASKS ARCHIVE ENCODER OUT JOBS" prepare glue "$@"
