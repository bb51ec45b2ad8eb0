#!/usr/bin/env bash
# Train one method on Multi30k; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/multi30k/train.sh [--pair de-en] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/multi30k]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,6s/^# \{0,1\}//p' "scripts/multi30k/train.sh"
    exit 0
    ;;
esac
bash scripts/setup.sh
exec .venv/bin/wff train multi30k "$@"
