#!/usr/bin/env bash
# The papers' experiment on IWSLT'14, eight languages to English, from the raw archives to a table of BLEU.
#
#   bash scripts/iwslt14/reproduce.sh [--methods standard,weighted_freeze] [--pairs de-en,es-en] [--seeds 1,2,3] [--archive FILE ...]
#
# The same as: bash scripts/reproduce.sh iwslt14. For all options: bash scripts/reproduce.sh --help
set -euo pipefail
case " $* " in
*" --help "* | *" -h "*) sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
*) exec bash "$(dirname "${BASH_SOURCE[0]}")/../reproduce.sh" iwslt14 "$@" ;;
esac
