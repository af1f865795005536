#!/usr/bin/env bash
# A CA and certificates to try the tunnel with, valid for a week, and to be thrown away:
#
#   certs/throwaway.sh [DIRECTORY [NAME...]]     without arguments: ./throwaway with h1, h2 and h3
#
# DIRECTORY/ca is the CA. DIRECTORY/NAME is what goes to the host NAME: host.crt, host.key, ca.crt and crl.pem.
# The program is EPMD_GUARD, or the one that was built here, or the installed one.
set -euo pipefail

days=7
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

main() {
    local directory=${1:-throwaway} guard name
    shift $(($# > 0 ? 1 : 0))
    [ $# -gt 0 ] || set -- h1 h2 h3
    guard=$(program)
    if [ -e "$directory" ]; then
        echo "$directory is there already: remove it, or name another directory" >&2
        exit 1
    fi
    umask 077
    mkdir -p -- "$directory"
    "$guard" certs init --dir "$directory/ca" --name throwaway --days "$days"
    "$guard" certs issue --dir "$directory/ca" --days "$days" -- "$@"
    for name in "$@"; do
        mkdir -- "$directory/$name"
        mv -- "$directory/ca/$name.key" "$directory/$name/host.key"
        cp -- "$directory/ca/$name.crt" "$directory/$name/host.crt"
        cp -- "$directory/ca/ca.crt" "$directory/ca/crl.pem" "$directory/$name/"
    done
    echo "made: $directory/ca, and for each host its own directory:$(printf ' %s' "$@")"
}

# The first that there is.
program() {
    local candidate
    for candidate in "${EPMD_GUARD:-}" "$here/target/release/epmd-guard" "$here/target/debug/epmd-guard"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
    command -v epmd-guard || {
        echo "there is no epmd-guard: cargo build, or set EPMD_GUARD" >&2
        exit 1
    }
}

main "$@"
