#!/usr/bin/env bash
# The main job: set up where needed, then train standard and weighted_freeze on the embedded corpus and compare them.
#
#   bash scripts/quickstart.sh [--pair de-en] [--methods standard,weighted_freeze] [--seeds N] [--out runs/quickstart]
#
# All options are those of `wff quickstart`. About 5 minutes on 2 cores once set up; a second call reuses what is done.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/wff.sh" "${BASH_SOURCE[0]}" "" quickstart "$@"
