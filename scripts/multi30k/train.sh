#!/usr/bin/env bash
# Train one method on Multi30k; called again, it goes on where it was. Set up where needed.
#
#   bash scripts/multi30k/train.sh [--pair de-en] [--method weighted_freeze] [--seed 1] [--gpus N] [--out runs/multi30k]
#
# All options are those of `wff train`; --dry-run says what would be trained, and where. The data: prepare.sh. The variables
# PAIR, METHOD, SEED, RECIPE, DATA, OUT, GPUS and PRECISION stand for the options of these names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,7s/^# \{0,1\}//p' "scripts/multi30k/train.sh"
    exit 0
    ;;
esac
words=()
for name in PAIR METHOD SEED RECIPE DATA OUT GPUS PRECISION; do
    [[ -z ${!name:-} ]] || words+=("--${name,,}" "${!name}")
done
bash scripts/setup.sh
exec .venv/bin/wff train multi30k ${words[@]+"${words[@]}"} "$@"
