#!/usr/bin/env bash
# What needs a GPU: tests, measurements of cost and the low-resource study on the card. Runs setup.sh first.
#
#   bash scripts/gpu.sh [PART ...] [--here] [--minutes N] [--out runs/gpu] [--archive ~/multi30k]
#
# PART is some of
#   tests   the kernels against plain PyTorch on the card, and the trainings of the tests there: every optimizer and
#           criterion, stopped and resumed, on two ranks, in fp32, bf16, amp and fp16 (flat, not flat, memory-efficient)
#   costs   every table of docs/costs.md in bf16, beside fairseq's own methods and torch's fused AdamW, in OUT/costs
#   study   scripts/lowresource/reproduce.sh, which needs --archive; in runs/lowresource-3000
# Default: tests and costs, and study if there is --archive.
#
# --here       use the active python3 as it is, without setup.sh: for a machine without a network
# --minutes N  end each part after N minutes. costs and study go on when the same is typed again; tests begin again
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
case " $* " in
*" --help "* | *" -h "*) exec bash "$root/scripts/wff.sh" "${BASH_SOURCE[0]}" "" "" --help ;;
esac
refuse() {
    echo "gpu.sh: $1; type: bash scripts/gpu.sh --help" >&2
    exit 2
}

parts='' here='' minutes='' out=runs/gpu archive=''
while (($#)); do
    case $1 in
    tests | costs | study) parts="$parts $1" ;;
    --here) here=--here ;;
    --minutes | --out | --archive)
        (($# > 1)) || refuse "$1 needs a value"
        printf -v "${1#--}" %s "$2"
        shift
        ;;
    *) refuse "there is no part or option $1" ;;
    esac
    shift
done
[[ $minutes =~ ^([0-9]+(\.[0-9]+)?)?$ ]] || refuse "--minutes needs a number, got $minutes"
parts=${parts:-tests costs ${archive:+study}}
[[ $parts != *study* || -n $archive ]] || refuse "study needs --archive DIR with the files of Multi30k"

python=python3
[[ -n $here ]] || {
    bash "$root/scripts/setup.sh"
    python=$root/.venv/bin/python
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" # also where the package is not installed
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
    refuse "torch sees no GPU (wff doctor says why)"

failed=()
# part NAME COMMAND...: run COMMAND, for --minutes at most, and remember a failure.
part() {
    local name=$1 status=0
    echo "==> $name"
    ${minutes:+timeout --kill-after=60 "${minutes}m"} "${@:2}" || status=$?
    [[ $status != 124 ]] || echo "gpu.sh: $name was not done after $minutes minutes; type the same again" >&2
    ((status == 0)) || failed+=("$name")
}
for name in $parts; do
    case $name in
    tests)
        WFF_TEST_DEVICE=cuda part tests "$python" -m pytest -n 4 "$root/tests/core/test_kernels_gpu.py" \
            "$root"/tests/e2e/test_{optimizers,criterions,alignreg,switch_transformer,communication}.py
        ;;
    costs) part costs "$python" -m weighted_freezing_fairseq bench --table all --device cuda --precision bf16 --out "$out/costs" ;;
    study) part study bash "$root/scripts/lowresource/reproduce.sh" ${here:+"$here"} --archive "$archive" --device cuda ;;
    esac
done
if ((${#failed[@]})); then
    echo "gpu.sh: not done: ${failed[*]}" >&2
    exit 1
fi
