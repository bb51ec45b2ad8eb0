#!/usr/bin/env bash
# Prepare IWSLT'14, eight languages to English: fetch the archives or take yours, and go on to what fairseq trains on.
#
#   bash scripts/iwslt14/prepare.sh [--langs de,es] [--recipe clean] [--archive FILE] [--out data/iwslt14] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables LANGS, RECIPE, ARCHIVE, OUT and
# JOBS stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/../wff.sh" "${BASH_SOURCE[0]}" "LANGS RECIPE ARCHIVE OUT JOBS" prepare iwslt14 "$@"
