# shellcheck shell=bash disable=SC2034
# What every script of the box shares: names, addresses, namespaces, daemons, progress lines.
# Sourced, never run. BOX chooses the box; after `. .box/env` it is the one of that environment.

BOX=${BOX:-${CASCINA_BOX:-main}}
[[ $BOX =~ ^[a-z0-9][a-z0-9-]{0,19}$ ]] || { echo "BOX must be a short lower-case name, not '$BOX'" >&2; exit 2; }

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$REPO/.box$([[ $BOX == main ]] || echo "-$BOX")
CACHE=${CASCINA_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cascina}
RUNDIR=/run/cascina-box # one small index per box, over all checkouts of this machine
HOSTS=(worker-1 worker-2 service-1 service-2)
export BOX

# --- telling ---------------------------------------------------------------------------------------------------------
BOX_T0=${BOX_T0:-$(date +%s)}
export BOX_T0
say() { printf '[%4ds] %s\n' "$(($(date +%s) - BOX_T0))" "$*"; }
stage() { # NAME TEXT…: one line of progress, in columns
    local name=$1; shift
    printf '[%4ds] %-16s %s\n' "$(($(date +%s) - BOX_T0))" "$name" "$*"
}
set -E
BOX_ARGS=("$@") # of the script that sources this
trap 'echo "box: $0 stopped at line $LINENO: $BASH_COMMAND" >&2' ERR # nothing ends without a word
die() { echo "box: $*" >&2; exit 1; }

need_root() { [[ $(id -u) == 0 ]] || die "namespaces, bridges and mounts need root: run this as root"; }

# wait_for SECONDS WHAT COMMAND…: polls ten times a second
wait_for() {
    local limit=$1 what=$2 end; shift 2
    end=$(($(date +%s) + limit))
    until "$@" >/dev/null 2>&1; do
        (($(date +%s) < end)) || die "gave up after ${limit}s waiting for $what (logs in $STATE/log/)"
        sleep 0.1
    done
}

# peek FILE: its text, or nothing: `$(<FILE)` would end the script when the file, or the process it belongs to, is gone
peek() { cat "$1" 2>/dev/null || true; }

# --- the index, and all that follows from it -------------------------------------------------------------------------
# The index names the namespaces and chooses the addresses, so that boxes never meet.
find_index() {
    local f
    for f in "$RUNDIR"/*.box; do
        [[ $(peek "$f") == "$STATE" ]] && { basename "$f" .box; return; }
    done
    return 1
}

allocate_index() {
    mkdir -p "$RUNDIR"
    (
        flock 9
        find_index && exit
        for i in {1..250}; do
            if [[ ! -e $RUNDIR/$i.box ]]; then echo "$STATE" >"$RUNDIR/$i.box"; echo "$i"; exit; fi
        done
        die "250 boxes on one machine are enough"
    ) 9>"$RUNDIR/lock"
}

use_index() {
    INDEX=$1
    PREFIX=cascina$INDEX
    CONTROL_NS=$PREFIX-control
    SWITCH_NS=$PREFIX-switch
    OUTSIDE_NS=$PREFIX-outside
    MGMT=198.18.$INDEX   # hosts and control plane; 198.18.0.0/15 is reserved for tests, no real network has it
    PUBLIC=198.19.$INDEX # plays the network outside the farms
    API_PORT=$((16443 + INDEX))
    API_SOCKET=$RUNDIR/$INDEX.sock
    export INDEX PREFIX CONTROL_NS SWITCH_NS OUTSIDE_NS MGMT PUBLIC API_PORT API_SOCKET
}

# Called from inside a namespace of the box (`ip netns exec` brings mounts of its own along), what we mount would be seen by nobody
# else: go where the box's forwarder is, which is the machine's own.
leave_ns() {
    [[ $(ip netns identify "$$" 2>/dev/null) == cascina* ]] || return 0
    local pid
    pid=$(pid_of api-port) || die "call this from the machine's own namespace"
    exec nsenter --target "$pid" --mount --net -- "$(realpath "$0")" "${BOX_ARGS[@]}"
}

need_box() { use_index "$(find_index || die "box '$BOX' isn't up: make up$([[ $BOX == main ]] || echo " BOX=$BOX")")"; leave_ns; }

host_address() {
    case $1 in
        worker-1) echo "$MGMT.11" ;; worker-2) echo "$MGMT.12" ;;
        service-1) echo "$MGMT.21" ;; service-2) echo "$MGMT.22" ;;
        *) die "no host '$1': ${HOSTS[*]}" ;;
    esac
}
host_uri() { echo "qemu+tls://$(host_address "$1")/system"; }
is_service() { [[ $1 == service-* ]]; }

# --- namespaces ------------------------------------------------------------------------------------------------------
# in_ns does not fork, so the command keeps the pid of who calls it with exec or `&`.
in_ns() { local ns=$1; shift; exec nsenter --net="/run/netns/$ns" "$@"; }
ns_exists() { nsenter --net="/run/netns/$1" true 2>/dev/null; }
add_ns() {
    ip netns add "$1"
    # Before any interface exists, so that none ever speaks IPv6 by itself.
    (in_ns "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1)
    ip -n "$1" link set lo up
}

# remove_ns: also one that is only half there
remove_ns() {
    [[ -e /run/netns/$1 ]] || return 0
    kill_ns "$1"
    ip netns del "$1"
}

# kill_ns: everything in the network namespace dies at once; this is how things of the box end, with no pid to remember.
kill_ns() {
    local pids end=$((SECONDS + 20))
    while ns_exists "$1" && pids=$(ip netns pids "$1" 2>/dev/null) && [[ -n $pids ]]; do
        # shellcheck disable=SC2086
        kill -KILL $pids 2>/dev/null || true
        ((SECONDS < end)) || die "processes in $1 don't die: $pids"
        sleep 0.05
    done
}

# --- processors: a box may have a share of its own -------------------------------------------------------------------
# processor_group: where the kernel keeps it (control groups, version 1 or 2); fails where there is none to write to
processor_group() {
    local root
    for root in /sys/fs/cgroup/cpu /sys/fs/cgroup; do
        [[ -w $root/cgroup.procs ]] && { echo "$root/$PREFIX"; return; }
    done
    return 1
}
# share_processors SHARE: what the box's processes get of the processors when others want them too; a process alone has 1024
share_processors() {
    local group
    group=$(processor_group) || return 0 # then nobody comes first
    [[ $(dirname "$group") == */cpu ]] || echo +cpu >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p "$group"
    if [[ -e $group/cpu.shares ]]; then echo "$1" >"$group/cpu.shares"; else echo "$((($1 + 9) / 10))" >"$group/cpu.weight"; fi
}
# join_processors: this shell and what it starts count as the box's, if that has a share
join_processors() {
    local group
    group=$(processor_group) && [[ -d $group ]] && echo "$BASHPID" >"$group/cgroup.procs"
    return 0
}

# --- daemons: setsid, a log, and a pidfile that holds the start time too, so that a reused pid is never taken for ours ----
started_at() {
    local stat
    stat=$(peek "/proc/$1/stat")
    read -ra stat <<<"${stat##*) }"
    echo "${stat[19]:-}"
}
pid_of() {
    local pid start
    { read -r pid start <"$STATE/run/$1.pid"; } 2>/dev/null || return 1
    [[ -n $start && $(started_at "$pid") == "$start" ]] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null && echo "$pid"
}
daemon() { # NAME COMMAND…: does nothing if it runs
    local name=$1; shift
    pid_of "$name" >/dev/null && return
    rm -f "$STATE/run/$name.pid"
    # It writes its pidfile itself before it becomes the command: killed at any moment, we leave no process that nobody knows.
    # shellcheck disable=SC2016
    (join_processors; exec setsid bash -c 'read -r stat <"/proc/$$/stat" && read -ra field <<<"${stat##*) }" && echo "$$ ${field[19]}" >"$0" && exec "$@"' \
        "$STATE/run/$name.pid" "$@") >>"$STATE/log/$name.log" 2>&1 </dev/null 8>&- 9>&- &
    while [[ ! -s $STATE/run/$name.pid ]]; do sleep 0.01; done
}
stop_daemons() { # all|but-hosts
    local file name
    for file in "$STATE"/run/*.pid; do
        name=$(basename "$file" .pid)
        [[ $1 != but-hosts || " ${HOSTS[*]} " != *" $name "* ]] && stop_daemon "$name" KILL
    done
    return 0
}
control_daemon() { local name=$1; shift; daemon "$name" nsenter --net="/run/netns/$CONTROL_NS" "$@"; }
stop_daemon() { # NAME [SIGNAL]
    local pid
    if pid=$(pid_of "$1"); then
        kill "-${2:-TERM}" "$pid" 2>/dev/null || true
        for _ in {1..100}; do pid_of "$1" >/dev/null || break; sleep 0.05; done
        pid_of "$1" >/dev/null && kill -KILL "$pid" 2>/dev/null
    fi
    rm -f "$STATE/run/$1.pid"
}

# content_hash FILE…: what a cached result depends on
content_hash() { cat "$@" | sha256sum | cut -c1-16; }

# find_machine NAMESPACE/NAME: its host and uid, as the API tells them
find_machine() {
    "$STATE/bin/kubectl" --kubeconfig "$STATE/kubeconfig" get virtualmachine -n "${1%%/*}" "${1#*/}" \
        -o jsonpath='{.status.hypervisor} {.metadata.uid}' || die "no machine $1: kubectl get cvm -A"
}
