#!/usr/bin/env bash
# Self-distillation: set up where needed, train a model, then students of the same shape, each taught by the model of the
# round before, and print BLEU and chrF of every round in one table.
#
#   bash scripts/self_distill.sh [--pair de-en] [--rounds N] [--seeds N] [--ensemble] [--out runs/self_distill]
#
# All options are those of `wff self-distill`. A second call reuses what is done; a killed one goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,7s/^# \{0,1\}//p' "scripts/self_distill.sh"
    exit 0
    ;;
esac
bash scripts/setup.sh
exec .venv/bin/wff self-distill "$@"
