#!/usr/bin/env bash
# Prepare XNLI from its own files and MultiNLI's, in the subwords of a pretrained encoder, as fairseq trains on them.
#
#   bash scripts/xnli/prepare.sh --archive ~/XNLI-1.0.zip ~/XNLI-MT-1.0.zip --encoder ~/xlmr.base [--out data/xnli] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables ARCHIVE, ENCODER, OUT and JOBS
# stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "ARCHIVE ENCODER OUT JOBS" prepare xnli "$@"
