#!/usr/bin/env bash
# The low-resource study: twelve methods on the first pairs of Multi30k, where standard training overfits. Prepares the
# data, trains and scores every run, and prints the tables. Protocol and results: docs/results.md.
#
#   bash scripts/lowresource/reproduce.sh --archive ~/multi30k [--limit 3000] [--jobs N] [--dry-run]
#
# --limit 3000 (default) trains 1,000 updates, --limit 10000 trains 2,500. Seeds 1 to 5 of standard, intra_distillation,
# r_drop, weighted_freeze and weighted_freeze_random, 1 to 3 of the others; some four hours of two CPU cores with 3,000
# pairs. A second call reuses finished steps; after a kill it resumes. All other options are those of `wff reproduce`. The
# settings of the methods were tuned by: .venv/bin/python scripts/lowresource/tune.py
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
case " $* " in
*" --help "* | *" -h "*) exec bash "$here/../wff.sh" "${BASH_SOURCE[0]}" "" reproduce --help ;;
esac

limit=3000 archive=() words=()
while (($#)); do
    case $1 in
    --limit | --archive)
        if (($# < 2)); then
            echo "reproduce.sh: $1 needs a value; type: bash scripts/lowresource/reproduce.sh --help" >&2
            exit 2
        fi
        if [[ $1 == --limit ]]; then limit=$2; else archive=(--archive "$2"); fi
        shift
        ;;
    *) words+=("$1") ;;
    esac
    shift
done
case $limit in
3000) ;;
10000)
    words+=(--set "optimization.max_update=2500" --set "dataset.validate_interval_updates=125")
    words+=(--set "checkpoint.save_interval_updates=125")
    ;;
*)
    echo "reproduce.sh: there is no study of $limit pairs; type --limit 3000 or --limit 10000" >&2
    exit 2
    ;;
esac

bash "$here/../setup.sh"
wff=$here/../../.venv/bin/wff data=data/lowresource-$limit
"$wff" prepare multi30k --langs de --limit "$limit" --pieces 2000 --out "$data" ${archive[@]+"${archive[@]}"}
study() {
    "$wff" reproduce multi30k --configs "$here/../../configs/lowresource" --data "$data" \
        --out "runs/lowresource-$limit" --choices best --methods "$1" --seeds "$2" ${words[@]+"${words[@]}"}
}
study standard,intra_distillation,r_drop,weighted_freeze,weighted_freeze_random 1-5
study intra_distillation_js,self_distillation,ewc,switch_transformer,sage,sage_light,weighted_freeze_smooth 1-3
