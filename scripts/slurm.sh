#!/usr/bin/env bash
# Submit a matrix of trainings as arrays of SLURM jobs, one job per cell; a cell that starts from another run waits for
# it. A cell that is requeued or submitted again resumes. The last job writes the tables.
#
#   bash scripts/slurm.sh iwslt14 [--pairs de-en,es-en] [--methods standard,sage] [--seeds 1,2,3] [--gpus N] [--dry-run]
#
# All options are those of `wff reproduce`. Prepare the data first: bash scripts/prepare.sh iwslt14. Set partition, time
# and account by the variables of sbatch (SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_ACCOUNT ...); at most WFF_AT_ONCE
# jobs of an array run in parallel. --dry-run prints what would be submitted. Relative paths are relative to the
# repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,10s/^# \{0,1\}//p' "scripts/slurm.sh"
    exit 0
    ;;
esac
if (($# == 0)) || [[ $1 == -* ]]; then
    echo "scripts/slurm.sh: the data set is missing; type: bash scripts/slurm.sh iwslt14 --dry-run" >&2
    exit 2
fi

DRY="" GPUS=1 DEVICE="" OUT="" RUNS="runs/$1"
words=("$1")
shift
while (($#)); do
    case $1 in
    --dry-run) DRY=1 ;;
    --gpus | --out | --device | --configs)
        (($# > 1)) || { echo "scripts/slurm.sh: $1 needs a value" >&2 && exit 2; }
        case $1 in
        --gpus) GPUS=$2 ;;
        --out) OUT=$2 ;;
        --device) DEVICE=$2 ;;
        --configs) [[ ${words[0]} == own* ]] || RUNS="runs/$(basename "$2")" ;; # as wff train chooses it
        esac
        words+=("$1" "$2")
        shift
        ;;
    *) words+=("$1") ;;
    esac
    shift
done
RUNS=${OUT:-$RUNS}
if [[ -z $DRY ]] && ! command -v sbatch >/dev/null; then
    echo "scripts/slurm.sh: sbatch is not installed; without SLURM type: wff reproduce ${words[*]}" >&2
    exit 2
fi
bash scripts/setup.sh >&2
cells=$(.venv/bin/wff reproduce "${words[@]}" --list)

# submit WORD...: submit a job and print its number; in a dry run, print the command to stderr and JOB for the number.
submit() {
    if [[ -n $DRY ]]; then
        echo "sbatch $*" >&2
        echo JOB
    else
        sbatch --parsable "$@"
    fi
}

resources=()
[[ $DEVICE == cpu ]] || resources=("--gpus=$GPUS")
folder="$RUNS/slurm"
mkdir -p "$folder"
after=()
level=0
while grep -q "^$level"$'\t' <<<"$cells"; do
    list="$folder/cells-$(cksum <<<"$cells" | cut -d " " -f 1)-$level.txt"
    sed -n "s/^$level"$'\t'"//p" <<<"$cells" >"$list"
    count=$(grep -c "" "$list")
    job=$(submit ${after[@]+"${after[@]}"} "--array=1-$count${WFF_AT_ONCE:+%$WFF_AT_ONCE}" \
        ${resources[@]+"${resources[@]}"} \
        "--output=$folder/%A-%a.log" scripts/slurm_cell.sh "$list")
    after=("--dependency=afterany:$job")
    level=$((level + 1))
done
list="$folder/report.txt"
echo "wff report $RUNS" >"$list"
submit ${after[@]+"${after[@]}"} --array=1-1 "--output=$folder/report-%A.log" scripts/slurm_cell.sh "$list" >/dev/null
echo "$(grep -c . <<<"$cells") cells on $level levels; logs: $folder"
