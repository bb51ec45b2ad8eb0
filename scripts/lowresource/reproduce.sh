#!/usr/bin/env bash
# The low-resource study: methods on the first pairs of Multi30k, where standard training overfits. Prepares the data,
# trains and scores every run, and prints the tables. Protocol and results: docs/results.md.
#
#   bash scripts/lowresource/reproduce.sh [PART] --archive ~/multi30k [--limit 3000] [--jobs N] [--dry-run] [--here]
#
# PART is one of
#   methods   (default) seeds 1 to 5 of standard, intra_distillation, r_drop, weighted_freeze and weighted_freeze_random,
#             1 to 3 of nine others; some three hours of two CPU cores with 3,000 pairs
#   figures   after methods: intra_distillation with other numbers of passes and the paper's alpha, seeds 1 to 3; then
#             learning curves, BLEU by passes, balance of the parameters and pruning curves, in runs/.../figures
#   freezing  standard training and three kinds of freezing with two and four layers, each at a learning rate that suits
#             standard training and at twice that, for 20 epochs or more, seeds 1 to 3; a fourth kind, which undoes whole
#             updates, in the first of these cells
#
# --limit 3000 (default) trains 1,000 updates, --limit 10000 trains 2,500. A second call reuses finished steps; after a
# kill it resumes. --here uses the active python3 as it is, without setup.sh. All other options are those of
# `wff reproduce`. The settings of the methods were tuned on the validation set by scripts/lowresource/tune.py.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
case " $* " in
*" --help "* | *" -h "*) exec bash "$here/../wff.sh" "${BASH_SOURCE[0]}" "" reproduce --help ;;
esac
refuse() {
    echo "reproduce.sh: $1; type: bash scripts/lowresource/reproduce.sh --help" >&2
    exit 2
}

part=methods limit=3000 archive=() words=() dry='' active=''
if (($#)) && [[ $1 != -* ]]; then
    part=$1
    shift
fi
while (($#)); do
    case $1 in
    --limit | --archive)
        (($# > 1)) || refuse "$1 needs a value"
        if [[ $1 == --limit ]]; then limit=$2; else archive=(--archive "$2"); fi
        shift
        ;;
    --here) active=1 ;;
    --dry-run)
        dry=1
        words+=("$1")
        ;;
    *) words+=("$1") ;;
    esac
    shift
done
case $part in
methods | figures | freezing) ;;
*) refuse "there is no part $part" ;;
esac
case $limit in
3000) updates=1000 longer=1500 every=50 ;;
10000) updates=2500 longer=5000 every=125 ;;
*) refuse "there is no study of $limit pairs, but of 3000 and 10000" ;;
esac

data=data/lowresource-$limit runs=runs/lowresource-$limit
if [[ -n $active ]]; then
    wff() { python3 -m weighted_freezing_fairseq "$@"; }
else
    bash "$here/../setup.sh"
    wff() { "$here/../../.venv/bin/wff" "$@"; }
fi
# study OUT UPDATES METHODS SEEDS [WORD ...]
study() {
    local settings=()
    ((limit == 3000 && $2 == 1000)) || settings=(--set "optimization.max_update=$2")
    ((every == 50)) || settings+=(--set "dataset.validate_interval_updates=$every" --set "checkpoint.save_interval_updates=$every")
    wff reproduce multi30k --configs "$here/../../configs/lowresource" --data "$data" --choices best --out "$1" \
        --methods "$3" --seeds "$4" ${settings[@]+"${settings[@]}"} "${@:5}" ${words[@]+"${words[@]}"}
}
wff prepare multi30k --langs de --limit "$limit" --pieces 2000 --out "$data" ${archive[@]+"${archive[@]}"} ${dry:+--dry-run}
case $part in
methods)
    study "$runs" "$updates" standard,intra_distillation,r_drop,weighted_freeze,weighted_freeze_random 1-5
    study "$runs" "$updates" \
        intra_distillation_js,self_distillation,ewc,switch_transformer,sage,sage_light,weighted_freeze_smooth,cautious,magma 1-3
    ;;
figures)
    passes=intra_distillation_2,intra_distillation_4,intra_distillation_5
    study "$runs" "$updates" "$passes,intra_distillation_adaptive,intra_distillation_constant" 1-3
    study "$runs-importance" "$updates" intra_distillation 1 --set common.log_importance=50
    [[ -z $dry ]] || exit 0
    cells=$runs/clean/de-en importance=$runs-importance/clean/de-en out=$runs/figures
    wff plot curves "$cells"/{standard,intra_distillation,r_drop}-{1,2,3} --out "$out"
    wff plot curves "$cells"/intra_distillation_{adaptive,constant}-{1,2,3} --show loss,nll_loss --out "$out/alpha"
    wff plot passes "$cells"/{standard,intra_distillation{,_2,_4,_5}}-{1,2,3} --out "$out"
    wff plot importance "$importance"/{standard,intra_distillation}-1 --out "$out"
    wff sensitivity "$cells"/{standard,intra_distillation,weighted_freeze}-{1,2,3} --scope linear --out "$out/balance"
    wff prune "$cells"/{standard,intra_distillation}-1 --method sensitivity --fractions 0:0.9:0.1 \
        --reference "$data/clean/de-en/raw/test.en" --out "$out/pruning"
    ;;
freezing)
    # the learning rate at which standard training works with so many layers, and twice that
    for cell in 2-0.004 2-0.008 4-0.002 4-0.004; do
        layers=${cell%-*} rate=${cell#*-}
        methods=weighted_freeze,weighted_freeze_smooth,weighted_freeze_random
        if [[ $cell == 2-0.004 ]]; then methods=$methods,weighted_freeze_update; fi
        study "$runs-freezing/$cell" "$longer" "$methods" 1-3 --set "optimization.lr=[$rate]" \
            --set "model.encoder.layers=$layers" --set "model.decoder.layers=$layers"
    done
    [[ -n $dry ]] || wff report "$runs-freezing" --table runs
    ;;
esac
