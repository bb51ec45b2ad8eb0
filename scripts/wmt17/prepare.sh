#!/usr/bin/env bash
# Prepare WMT'17 English-German, 4.5 million pairs: fetch the archives or take yours, and go on to what fairseq trains on.
#
#   bash scripts/wmt17/prepare.sh [--recipe intra-distillation] [--archive FOLDER] [--out data/wmt17] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables RECIPE, ARCHIVE, OUT and JOBS
# stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "RECIPE ARCHIVE OUT JOBS" prepare wmt17 "$@"
