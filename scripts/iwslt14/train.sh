#!/usr/bin/env bash
# Train one method on IWSLT'14; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/iwslt14/train.sh [--pair de-en] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/iwslt14]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# PAIR, METHOD, SEED, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,7s/^# \{0,1\}//p' "scripts/iwslt14/train.sh"
    exit 0
    ;;
esac
words=()
for name in PAIR METHOD SEED RECIPE DATA OUT GPUS PRECISION; do
    [[ -z ${!name:-} ]] || words+=("--${name,,}" "${!name}")
done
bash scripts/setup.sh
exec .venv/bin/wff train iwslt14 ${words[@]+"${words[@]}"} "$@"
