#!/usr/bin/env bash
#SBATCH --job-name=wff
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=4
# Run one cell of a matrix as a SLURM job: the line of LIST whose number is that of the job in its array.
#
#   sbatch --array=1-N scripts/slurm_cell.sh LIST         as scripts/slurm.sh does
#   SLURM_ARRAY_TASK_ID=3 bash scripts/slurm_cell.sh LIST    the third cell, here and now
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/..}"
case " $* " in
*" --help "* | *" -h "* | "  ")
    echo "bash scripts/slurm_cell.sh LIST: runs the line of LIST with the number SLURM_ARRAY_TASK_ID; see bash scripts/slurm.sh --help"
    exit 0
    ;;
esac
cell=$(sed -n "${SLURM_ARRAY_TASK_ID:?must be the number of a line; SLURM sets it}p" "$1")
if [[ -z $cell ]]; then
    echo "$1 has no line $SLURM_ARRAY_TASK_ID" >&2
    exit 2
fi
echo "$(date -u +%FT%TZ) ${SLURM_JOB_ID:-} on $(uname -n): $cell"
PATH="$PWD/.venv/bin:$PATH" exec bash -c "$cell"
