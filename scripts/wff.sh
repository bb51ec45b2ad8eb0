#!/usr/bin/env bash
# What the scripts that call `wff` share: print the help of the script, turn environment variables into options, run
# setup.sh, and call `wff`. The help is the first comment of SCRIPT; each variable of NAMES that is set becomes an option.
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
    echo "scripts/wff.sh: SCRIPT, NAMES or COMMAND is missing; type: bash scripts/wff.sh --help" >&2
    exit 2
fi
names=$2
shift 2
words=("$1")
shift
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# Order: the data set, options from variables, options that were typed. The last one of an option wins.
while (($#)) && [[ $1 != -* ]]; do
    words+=("$1")
    shift
done
for name in $names; do
    [[ -z ${!name:-} ]] || words+=("--$(tr '[:upper:]' '[:lower:]' <<<"$name")" "${!name}")
done
bash "$root/scripts/setup.sh"
exec "$root/.venv/bin/wff" "${words[@]}" "$@"
