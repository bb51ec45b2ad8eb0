#!/usr/bin/env bash
# The papers' experiment on WMT'17 En-De, from the raw archives to a table of BLEU.
#
#   bash scripts/wmt17/reproduce.sh [--methods standard,weighted_freeze] [--pairs en-de] [--seeds 1,2,3] [--archive FILE ...]
#
# The same as: bash scripts/reproduce.sh wmt17. For all options: bash scripts/reproduce.sh --help
set -euo pipefail
case " $* " in
*" --help "* | *" -h "*) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
*) exec bash "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh" wmt17 "$@" ;;
esac
