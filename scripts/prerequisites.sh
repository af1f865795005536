#!/usr/bin/env bash
# Installs what is needed and missing, and nothing else: Debian packages, without starting any service.
#
#   scripts/prerequisites.sh         what the tests and the demonstration need
#   scripts/prerequisites.sh run     what scripts/run.sh needs
#   scripts/prerequisites.sh interop what the tests and scripts/interop-roots.sh need
#   scripts/prerequisites.sh judge   what the tests and tests/judge.rs need
#
# Rust itself is only looked for: how it gets here is for the machine's owner to say.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin"

# A program and the Debian package that has it.
for_run="cc:build-essential ip:iproute2 ss:iproute2 setpriv:util-linux epmd:erlang-base erl:erlang-base"
for_test="$for_run make:build-essential ejabberdctl:ejabberd nft:nftables socat:socat dnsmasq:dnsmasq-base
    tcpdump:tcpdump curl:curl pgrep:procps systemd-analyze:systemd
    systemd-socket-activate:systemd unshare:util-linux useradd:passwd fail2ban-regex:fail2ban openssl:openssl"
for_interop="$for_test debootstrap:debootstrap"
for_judge="$for_test testssl:testssl.sh"
# Units that Debian's packages enable, so that they would start with the machine.
units="epmd.socket epmd.service ejabberd.service fail2ban.service"

policy=/usr/sbin/policy-rc.d
kept=$policy.kept-by-epmd-guard
mark="Put here by epmd-guard's scripts/prerequisites.sh while it installs packages."

main() {
    case "${1:-test}" in
        test) needed=$for_test ;;
        run) needed=$for_run ;;
        interop) needed=$for_interop ;;
        judge) needed=$for_judge ;;
        *) die "usage: scripts/prerequisites.sh [test|run|interop|judge]" ;;
    esac
    check_rust
    [ "$needed" = "$for_run" ] || check_rust_tools
    local packages
    packages=$(missing_packages "$needed")
    if [ -z "$packages" ]; then
        say "nothing is missing"
        return
    fi
    if ! command -v apt-get >/dev/null; then
        die "this machine lacks what these Debian packages have, and has no apt-get: $packages"
    fi
    if [ "$(id -u)" != 0 ]; then
        die "missing: $packages" "Install with: sudo scripts/prerequisites.sh ${1:-}"
    fi
    install_missing
    packages=$(missing_packages "$needed")
    [ -z "$packages" ] || die "still missing after the installation: $packages"
}

check_rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null || die "Rust is missing, $wanted or newer: see https://rustup.rs"
    have=$(rustc --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n' "$wanted" "$have" | sort --version-sort | head -n 1)" != "$wanted" ]; then
        die "Rust is too old: $have, and $wanted or newer is needed (rustup update)"
    fi
}

check_rust_tools() {
    local component
    for component in rustfmt clippy; do
        # cargo calls rustfmt by the name of fmt.
        ! cargo "${component#rust}" --version >/dev/null 2>&1 || continue
        command -v rustup >/dev/null || die "$component is missing: install it from where Rust came"
        say "installing $component (rustup component add)"
        rustup --quiet component add "$component"
    done
}

missing_packages() {
    local pair found=()
    for pair in $1; do
        command -v "${pair%%:*}" >/dev/null || found+=("${pair##*:}")
    done
    [ ${#found[@]} = 0 ] || printf '%s\n' "${found[@]}" | sort --unique | paste --serial --delimiters ' '
}

install_missing() {
    # One at a time: the next one then finds nothing missing.
    exec 9>/run/epmd-guard-prerequisites.lock
    flock 9
    local packages before unit
    packages=$(missing_packages "$needed")
    [ -n "$packages" ] || return 0
    say "installing $packages (apt-get; no service is started)"
    before=$(enabled_units)
    keep_services_down
    export DEBIAN_FRONTEND=noninteractive
    apt_get --quiet=2 update
    # shellcheck disable=SC2086 # a list of packages
    apt_get --quiet=2 --option Dpkg::Options::=--force-confold install --yes --no-install-recommends $packages
    allow_services
    for unit in $(enabled_units); do
        [[ " $before " == *" $unit "* ]] || {
            say "disabling $unit, which came with them and would start when the machine does"
            systemctl disable --quiet "$unit"
        }
    done
}

# Its output matters only when it fails.
apt_get() {
    local log
    log=$(mktemp)
    # apt-get passes its descriptors on to whatever the packages run: the lock is not for these.
    if ! apt-get --option DPkg::Lock::Timeout=300 "$@" </dev/null 9>&- >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get failed; its output is above"
    fi
    rm -f "$log"
}

enabled_units() {
    command -v systemctl >/dev/null || return 0
    local unit
    for unit in $units; do
        ! systemctl is-enabled --quiet "$unit" 2>/dev/null || printf '%s ' "$unit"
    done
}

# invoke-rc.d asks policy-rc.d before it starts anything; 101 means that it is forbidden.
keep_services_down() {
    # What a killed run left here is not the machine's own.
    allow_services
    trap allow_services EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        mv "$policy" "$kept"
    fi
    printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
}

allow_services() {
    if [ -f "$policy" ] && grep -qsF "$mark" "$policy"; then
        rm -f "$policy"
    fi
    if [ -e "$kept" ] || [ -L "$kept" ]; then
        mv "$kept" "$policy"
    fi
}

say() {
    echo "prerequisites: $*"
}

die() {
    printf 'prerequisites: %s\n' "$@" >&2
    exit 1
}

main "$@"
