#!/usr/bin/env bash
# Prepare Multi30k, German and English, 29,000 pairs: fetch its files or take yours, and go on to what fairseq trains on.
#
#   bash scripts/multi30k/prepare.sh [--pairs de-en] [--archive FOLDER] [--pieces N] [--out data/multi30k] [--jobs N]
#
# All options are those of `wff prepare`; --dry-run says what would be done. The variables PAIRS, ARCHIVE, PIECES, OUT and
# JOBS stand for the options of these names. Set up where needed. A second call does nothing; a killed one goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,7s/^# \{0,1\}//p' "scripts/multi30k/prepare.sh"
    exit 0
    ;;
esac
words=()
for name in PAIRS ARCHIVE PIECES OUT JOBS; do
    [[ -z ${!name:-} ]] || words+=("--${name,,}" "${!name}")
done
bash scripts/setup.sh
exec .venv/bin/wff prepare multi30k ${words[@]+"${words[@]}"} "$@"
