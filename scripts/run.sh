#!/usr/bin/env bash
# Runs the guard on this machine, as its epmd, until Ctrl-C (`make run`).
#
#   ALLOW="192.0.2.8 h2.example.net"   who is let in besides this machine; nobody if not set
#   PORTS="9100-9199"                  the distribution ports, several ranges with spaces between; those of the
#                                      registered nodes if not set
#
# No other epmd is started. Where somebody serves epmd's port already, which is left alone, the guard runs in a
# network namespace instead. What is made here is removed at the end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin"

read -r -a allow <<<"$(tr ',\n' '  ' <<<"${ALLOW:-}")"
read -r -a ports <<<"$(tr ',\n' '  ' <<<"${PORTS:-}")"
# Networks for documentation (RFC 5737): nobody's, so one of them is free.
test_networks=(192.0.2 198.51.100 203.0.113)
# People may copy it from what is said here and run it anywhere, hence the whole path.
built=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")/release/epmd-guard

dir=     # our files, which every user may read
netns=   # the namespace, when there is one
outside= # the machine's own end of the link to it
here=machine
enter=() # what runs a command where the guard runs
guard_pid=

main() {
    scripts/prerequisites.sh run
    cargo build --release --quiet --bin epmd-guard
    trap clean_up EXIT
    trap 'stop 129' HUP
    trap 'stop 0' INT
    trap 'stop 141' PIPE
    trap 'stop 143' TERM
    dir=$(mktemp --directory --tmpdir=/tmp epmd-guard-run.XXXXXX)
    chmod 755 "$dir"
    # A build directory below /root is closed to the user that the guard runs as.
    install --mode=755 "$built" "$dir/epmd-guard"
    write_config
    choose_place
    start_guard
    explain
    local status=0
    wait "$guard_pid" || status=$?
    guard_pid=
    # It ends well only when it is told to, such as by a Ctrl-C that reached it before this program.
    [ "$status" != 0 ] || return 0
    die "the guard has ended by itself, with status $status; its log is above"
}

write_config() {
    {
        echo '[cluster]'
        echo "allow = [$(quoted "${allow[@]}")]"
        if [ ${#ports[@]} != 0 ]; then
            echo '[dist]'
            echo "ports = [$(quoted "${ports[@]}")]"
        fi
        echo '[admin]'
        echo "socket = '$dir/run/admin.sock'"
    } >"$dir/epmd-guard.toml"
    # The guard's user makes its socket there.
    mkdir --mode=750 "$dir/run"
    [ "$(id -u)" != 0 ] || chown daemon:"$(id -g daemon)" "$dir/run"
    local problems
    # Warnings come again in the log.
    problems=$("$dir/epmd-guard" check --config "$dir/epmd-guard.toml" 2>&1) ||
        die "ALLOW or PORTS is not right:" "$problems"
}

quoted() {
    [ $# != 0 ] || return 0
    local all
    # In single quotes TOML takes everything as it is.
    printf -v all "'%s', " "$@"
    echo "${all%, }"
}

# On the machine itself, or in a namespace where epmd's port is not free.
choose_place() {
    local holders cure=
    holders=$(holders)
    if [ -n "$holders" ]; then
        printf '\n%s\n%s\n' "Somebody serves epmd's port on this machine already, and is left alone:" "$holders"
        held_names
        cure="free the port, or "
    elif ! addresses | grep -qv :; then
        printf '\n%s\n' "This machine has no IPv4 address besides loopback, which the commands to try need."
    else
        return 0
    fi
    [ "$(id -u)" = 0 ] ||
        die "${cure}run this as root, which can do without, in a network namespace: sudo -E make run"
    make_namespace
    echo "The guard runs in a network namespace of its own instead: $netns"
}

# Who listens on 4369: address, and process where it can be seen.
holders() {
    ss --no-header --listening --tcp --numeric --processes 'sport = :4369' | awk '
        { who = $6 }
        who ~ /pid=/ { gsub(/users:|[()"]/, "", who); sub(/,pid=/, ", process ", who); sub(/,fd=.*/, "", who) }
        who == "" { who = "a process of another user" }
        { print "    " $4 "  " who }'
}

# What to do about it, which depends on whether it is an epmd, and has nodes.
held_names() {
    local names
    if ! names=$("$dir/epmd-guard" names 127.0.0.1 2>/dev/null); then
        echo "It does not answer as an epmd does."
        return
    fi
    # Behind the line that says which port it serves.
    names=$(tail --lines=+2 <<<"$names")
    if [ -n "$names" ]; then
        printf '%s\n%s\n' "It is an epmd, or a guard, with these nodes:" "${names//name /    }"
    else
        echo "It is an epmd, or a guard, without a node."
    fi
    echo "To have the guard take its place on this machine, stop it and run this again. Nodes of OTP 23.3 and later"
    echo "register anew within 2 s. Debian: systemctl disable --now epmd.socket epmd.service, which stops ejabberd too;"
    echo "see docs/operations.md. Otherwise end its process, or let \`epmd -kill\` do it, which refuses while there are nodes."
}

# The addresses that "*" means in the configuration, IPv4 first.
addresses() {
    "${enter[@]}" ip -oneline address show scope global | awk '{ sub(/\/.*/, "", $4); print $3, $4 }' |
        sort | cut -d ' ' -f 2
}

make_namespace() {
    local network name=epmd-guard-$$
    for network in "${test_networks[@]}"; do
        [ -z "$(ip route show root "$network.0/24")" ] || continue
        ip netns add "$name"
        netns=$name
        here=namespace
        outside=eg$$
        enter=(ip netns exec "$netns")
        ip link add "$outside" type veth peer name eth0 netns "$netns"
        ip address add "$network.254/24" dev "$outside"
        ip link set "$outside" up
        ip -netns "$netns" link set lo up
        ip -netns "$netns" address add "$network.1/24" dev eth0
        ip -netns "$netns" link set eth0 up
        return
    done
    die "the networks for tests are all in use here: ${test_networks[*]}"
}

start_guard() {
    echo
    echo "The guard starts; this is its log:"
    as daemon "$dir/epmd-guard" run --config "$dir/epmd-guard.toml" &
    guard_pid=$!
    # "*" leaves out what an interface does not offer (yet), so one address is enough.
    await "the guard to serve an address" "$guard_pid" is_served_outside
    # A moment for the rest of its first lines.
    sleep 0.3
}

# Runs a command where the guard runs, as that user if we may choose, in place of the calling subshell.
as() {
    local user=$1
    shift
    if [ "$(id -u)" = 0 ]; then
        exec "${enter[@]}" setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups --no-new-privs \
            -- env HOME="$dir" "$@" </dev/null
    fi
    exec "$@" </dev/null
}

is_served() {
    "${enter[@]}" ss --no-header --listening --tcp --numeric "sport = :4369" |
        awk -v address="$1" '$4 == address ":4369" || $4 == "[" address "]:4369" { found = 1 } END { exit !found }'
}

is_served_outside() {
    local address
    for address in $(addresses); do
        ! is_served "$address" || return 0
    done
    return 1
}

await() {
    local what=$1 pid=$2 tries
    shift 2
    for ((tries = 0; tries < 100; tries++)); do
        ! "$@" || return 0
        kill -0 "$pid" 2>/dev/null || die "waiting for $what in vain: it has ended"
        sleep 0.1
    done
    die "waiting for $what in vain, for 10 s"
}

explain() {
    local served address cli=$built config=$dir/epmd-guard.toml peers="nobody" nodes="the ports of the nodes"
    mapfile -t served < <(addresses)
    address=${served[0]}
    [ ${#allow[@]} = 0 ] || peers=$(listed "${allow[@]}")
    local prefix="${enter[*]:+${enter[*]} }"
    local node="${prefix}erl -setcookie try -kernel inet_dist_use_interface '{127,0,0,1}'"
    if [ ${#ports[@]} != 0 ]; then
        nodes="$(listed "${ports[@]}") (nodes)"
        node+=" inet_dist_listen_min ${ports[0]%%-*} inet_dist_listen_max ${ports[0]##*-}"
    fi
    cat <<TEXT

--------------------------------------------------------------------------------
The guard runs${netns:+, in the network namespace $netns}.

  It is         the epmd of this $here: nodes register at 127.0.0.1:4369, as they always do
  It serves     $(listed "${served[@]}"), on port 4369 (epmd) and, while a node
                listens behind them, on $nodes
  It lets in    this $here, and besides: $peers

Try, in another terminal${netns:+ and as root}:

  Start a node. It registers with the guard, and listens on loopback, so that it is reached only through the guard:

    $node -name one@$address

  List the names, as every epmd does (\`epmd -names\` does so too):

    $prefix$cli names $address

  Start a second node, which finds the first one through the guard and links to it:

    $node -name two@$address -noshell -eval 'io:format("~p~n", [net_adm:ping(list_to_atom("one@$address"))]), halt().'

  See what the guard does, and which links are up:

    $cli status --config $config
    $cli links --config $config

  $(stranger "$cli" "$address" "$config")

Ctrl-C ends $(what_ends).
--------------------------------------------------------------------------------
The log goes on:
TEXT
}

listed() {
    local all
    printf -v all '%s, ' "$@"
    echo "${all%, }"
}

stranger() {
    local cli=$1 address=$2 config=$3 who="From another host you are a stranger" example=192.0.2.8
    if [ -n "$netns" ]; then
        who="From outside the namespace you are ${address%.*}.254"
        example=${address%.*}.254
    fi
    if [ ${#allow[@]} = 0 ]; then
        echo "$who, and refused, as the log will say:"
    else
        echo "$who, and refused unless ALLOW has the address, as the log will say:"
    fi
    printf '\n    %s\n' "$cli names $address"
    printf '\n  %s\n\n    %s\n' "Ask the guard which rule decides:" \
        "$cli explain --config $config --running --from $example --to one"
    printf '\n  %s\n\n    %s\n' "To let others in, or nobody any more, change allow in $config, and:" \
        "$cli reload --config $config"
}

what_ends() {
    if [ -n "$netns" ]; then
        echo "the guard and the namespace, with whatever runs there"
    else
        echo "the guard; nodes go on without it, and register at the epmd that comes next"
    fi
}

stop() {
    trap '' HUP INT PIPE TERM
    exit "$1"
}

clean_up() {
    trap '' HUP INT PIPE TERM
    end "$guard_pid"
    if [ -n "$netns" ]; then
        local pid
        for pid in $(ip netns pids "$netns"); do
            kill -KILL "$pid" 2>/dev/null || true
        done
        ip link delete "$outside" 2>/dev/null || true
        ip netns delete "$netns" || true
    fi
    [ -z "$dir" ] || rm -rf "$dir"
}

end() {
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

die() {
    printf 'make run: %s\n' "$1" >&2
    shift
    [ $# = 0 ] || printf '%s\n' "$@" >&2
    exit 1
}

main
