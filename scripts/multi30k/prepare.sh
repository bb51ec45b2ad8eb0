#!/usr/bin/env bash
# Prepare Multi30k, German and English, 29,000 pairs: fetch its files or take yours, and go on to what fairseq trains on.
#
#   bash scripts/multi30k/prepare.sh [--pairs de-en] [--archive FOLDER] [--pieces N] [--out data/multi30k] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables PAIRS, ARCHIVE, PIECES, OUT and
# JOBS stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "PAIRS ARCHIVE PIECES OUT JOBS" prepare multi30k "$@"
