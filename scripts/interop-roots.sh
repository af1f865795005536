#!/usr/bin/env bash
# Makes the roots that `make interop` runs nodes of other releases of OTP in, where they are not there yet:
#
#   trixie   Debian 13, OTP 27
#   forky    Debian 14, OTP 29
#
# They are kept in EPMD_GUARD_INTEROP_CACHE, ~/.cache/epmd-guard/interop if it is not set. A root bears its name only
# when it is complete; one that was left half made is made anew. No service is started in them, and outside of the
# cache only debootstrap is installed, where it is missing. To make a root anew, such as for Debian's updates, remove
# its folder first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

cache=${EPMD_GUARD_INTEROP_CACHE:-${HOME:-/root}/.cache/epmd-guard/interop}
# A suite of Debian and the release of OTP that it must have.
roots="trixie:27 forky:29"
# erlang-ssl, with what it needs itself, is for distribution over TLS.
packages="erlang-base erlang-crypto erlang-inets erlang-ssl"
# In MiB: what both take when they are complete, 360, and what the packages of one take meanwhile, and to spare.
needed=1024
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# debootstrap's own way for all new suites; it need not know their names.
recipe=/usr/share/debootstrap/scripts/sid

main() {
    [ "$(id -u)" = 0 ] || die "making a root needs root: sudo -E make interop"
    [[ "$cache" = /* ]] || die "EPMD_GUARD_INTEROP_CACHE is not an absolute path: $cache"
    # In a mount namespace of our own nothing stays mounted in a root, even when this is killed.
    if [ "${1:-}" != apart ]; then
        scripts/prerequisites.sh interop
        exec unshare --mount --propagation private "${BASH_SOURCE[0]}" apart
    fi
    mkdir -p "$cache"
    # One at a time: the next one then finds nothing missing. What a killed one left running holds it too.
    exec 9>"$cache/lock"
    flock 9
    local root missing=()
    for root in $roots; do
        has_otp "$cache/${root%%:*}" "${root##*:}" || missing+=("$root")
    done
    [ ${#missing[@]} = 0 ] || make_roots "${missing[@]}"
    say "OTP 27 and 29 are in $cache ($(du --summarize --human-readable "$cache" | cut --fields 1))"
}

# Whether a root is complete. One of another release than the tests expect is not made anew by itself.
has_otp() {
    local have
    [ -d "$1" ] || return 1
    have=$(otp_of "$1") || die "$1 does not run erl any more: remove the folder, and run this again"
    [ "$have" = "$2" ] || die "$1 has OTP $have, and not $2: remove the folder, and run this again"
}

# What a root's own erl says.
otp_of() {
    chroot "$1" erl -noinput -eval 'io:put_chars(erlang:system_info(otp_release)), halt().' </dev/null
}

make_roots() {
    local root mirror free
    [ -e "$recipe" ] || die "debootstrap has no script for new suites: $recipe is missing"
    [ -e "$keyring" ] || die "the keys of Debian's archive are missing: apt-get install debian-archive-keyring"
    free=$(df --output=avail --block-size=1M "$cache" | tail --lines 1)
    [ "$free" -ge "$needed" ] || die "the roots need $needed MiB in $cache, and there are $free"
    mirror=$(mirror)
    for root in "$@"; do
        make_root "$cache/${root%%:*}" "${root##*:}" "$mirror"
    done
}

# Where this machine's apt gets Debian from.
mirror() {
    local all
    command -v apt-get >/dev/null || die "this machine has no apt-get, whose configuration names the mirror"
    all=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Component: main' \
        'Origin: Debian' 'Label: Debian')
    [ -n "$all" ] || die "apt knows no mirror of Debian: configure one, and run apt-get update"
    head --lines 1 <<<"$all"
}

make_root() {
    local root=$1 otp=$2 mirror=$3 half=$1.half have begun=$SECONDS
    rm --recursive --force --one-file-system "$half" "$half.log"
    say "making ${root##*/}, for OTP $otp, from $mirror: about 80 MiB to fetch, 190 on disk, a minute"
    logged "$half.log" debootstrap --variant=minbase --keyring="$keyring" "${root##*/}" "$half" "$mirror" "$recipe"
    # invoke-rc.d asks it before it starts anything; 101 means that it is forbidden.
    printf '#!/bin/sh\nexit 101\n' >"$half/usr/sbin/policy-rc.d"
    chmod 755 "$half/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2086 # a list of packages
    logged "$half.log" chroot "$half" env DEBIAN_FRONTEND=noninteractive \
        apt-get --quiet install --yes --no-install-recommends $packages
    logged "$half.log" chroot "$half" apt-get clean
    rm --recursive --force "$half"/var/lib/apt/lists/*
    # The files of the host that a node runs on are bound over these, which must be there for it.
    touch "$half/etc/hosts" "$half/etc/resolv.conf"
    have=$(otp_of "$half") || die "erl does not run in $half"
    [ "$have" = "$otp" ] ||
        die "${root##*/} has OTP $have now, and not $otp: tell scripts/interop-roots.sh and tests/interop/ of it"
    rm --force "$half.log"
    mv "$half" "$root"
    say "made ${root##*/} in $((SECONDS - begun)) s"
}

# What it prints matters only when it fails.
logged() {
    local log=$1
    shift
    "$@" </dev/null >>"$log" 2>&1 || {
        tail --lines 40 "$log" >&2
        die "$1 failed; the end of its output is above, and all of it in $log"
    }
}

say() {
    echo "interop: $*"
}

die() {
    printf 'interop: %s\n' "$@" >&2
    exit 1
}

main "$@"
