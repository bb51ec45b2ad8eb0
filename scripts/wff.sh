#!/usr/bin/env bash
# What the scripts of the recipes share: show a script's own help, turn variables into options, set up where needed, and
# call `wff` where it was typed. SCRIPT's first comment is its help; each of NAMES that is set in the environment becomes
# an option.
#
#   bash scripts/wff.sh SCRIPT "NAMES" COMMAND [WORD ...]
set -euo pipefail
case " $* " in
*" --help "* | *" -h "*)
    if [[ ! -f $1 ]]; then set -- "${BASH_SOURCE[0]}"; fi
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p;}' "$1"
    exit 0
    ;;
esac
if (($# < 3)); then
    echo "scripts/wff.sh: give a script, its variables and a command; type: bash scripts/wff.sh --help" >&2
    exit 2
fi
names=$2
shift 2
words=("$1")
shift
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# The data set comes before the options that stand in variables, and these before what was typed, which wins.
while (($#)) && [[ $1 != -* ]]; do
    words+=("$1")
    shift
done
for name in $names; do
    [[ -z ${!name:-} ]] || words+=("--$(tr '[:upper:]' '[:lower:]' <<<"$name")" "${!name}")
done
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/wff" "${words[@]}" "$@"
