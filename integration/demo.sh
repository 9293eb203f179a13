#!/usr/bin/env bash
# The demo: a one-host cluster beside whatever runs here, shown step by step, each step checked and measured.
#
#   demo.sh                 examples/hello, all steps
#   demo.sh FILE            your own Compose file instead: deploys it and says how to look around
#   demo.sh --down          takes everything away and prints what is left (nothing)
#
# CARRACK names the binary, IMAGES the directory of image archives (`make demo` sets both).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
: "${CARRACK:?run it with make demo}" "${IMAGES:?run it with make demo}"
load=$(dirname "$CARRACK")/carrack-load
state=/var/lib/carrack-demo
run=/run/carrack-demo
export CARRACK_HOST=$run/carrack.sock
export HELLO_PORT=${HELLO_PORT:-8080}
url=localhost:$HELLO_PORT
began=$(date +%s)
steps=0
good=0

carrack() { "$CARRACK" "$@"; }
show() { printf '\n$ %s\n' "$*"; }
now_ms() { date +%s%3N; }
ok() { good=$((good + 1)); printf 'ok %s\n' "$*"; }
bad() { printf 'FAILED %s\n' "$*"; }
step() { steps=$((steps + 1)); printf '\n--- %d. %s\n' "$steps" "$*"; }
daemon_pid() { carrack version -o json 2>/dev/null | jq -r .pid; }
pids() { carrack ps "$1" -o json | jq -r '.[] | select(.desired == "run") | .pid' | sort -n | tr '\n' ' '; }
passing() { carrack ps hello/web -o json | jq '[.[] | select(.health == "passing")] | length'; }

# wait_for SECONDS COMMAND...: until the command succeeds
wait_for() {
    local end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# What Carrack could leave on this machine.
inventory() {
    ip -o link 2>/dev/null | awk -F': ' '$2 ~ /^ck/ {print "link " $2}'
    ip -o addr show dev lo | awk '$4 !~ /^(127\.|::1)/ {print "address " $4}'
    ip netns list 2>/dev/null | sed 's/^/netns /'
    nft list tables 2>/dev/null | sed 's/^/nft /'
    awk '{print "mount " $5}' /proc/self/mountinfo
    find /sys/fs/cgroup -maxdepth 3 -type d -name 'carrack*' 2>/dev/null | sed 's/^/cgroup /'
    local proc
    for proc in /proc/[0-9]*; do
        if [ "$(readlink "$proc/exe" 2>/dev/null)" = "$CARRACK" ] || grep -q '/carrack-' "$proc/cgroup" 2>/dev/null; then
            echo "process $(tr '\0' ' ' <"$proc/cmdline" | cut -c 1-120)"
        fi
    done
}

down() {
    [ -d $run ] || { echo "demo-down: nothing to take away"; return 0; }
    # A daemon that is gone is started once more: it knows what it left.
    carrack version >/dev/null 2>&1 || start_daemon >/dev/null 2>&1
    for stack in $(carrack ls -o json | jq -r '.[].name'); do
        show "carrack down -v -p $stack" && carrack down -v -p "$stack"
    done
    show "carrack daemon --stop --stop-containers"
    carrack daemon --stop --stop-containers --state-dir $state --runtime-dir $run
    local difference same
    difference=$(inventory | sort | diff $state/inventory.before -)
    same=$?
    echo
    echo "inventory before and after (links, addresses, netns, nft tables, mounts, cgroups, processes):"
    if [ $same = 0 ]; then echo "no difference"; else echo "$difference"; fi
    rm -rf $state $run
    return $same
}

start_daemon() { carrack daemon -d --state-dir $state --runtime-dir $run --socket "$CARRACK_HOST"; }

# holder_of PORT...: who listens on one of them; fails when nobody does
holder_of() {
    local port line
    for port; do
        line=$(ss -ltnpH "sport = :$port" | head -1)
        [ -z "$line" ] || { echo "port $port is taken ($(grep -o 'users:.*' <<<"$line"))"; return 0; }
    done
    return 1
}

needs() {
    local problem=""
    [ "$(id -u)" = 0 ] || problem="root is needed: namespaces, cgroups and nftables are made; run it as root"
    [ -x "$CARRACK" ] || problem="$CARRACK is missing: run make build"
    [ -z "$problem" ] && [ "$(uname -s)" != Linux ] && problem="Linux is needed"
    if [ -z "$problem" ] && ! carrack version >/dev/null 2>&1 && [ -z "${1:-}" ]; then
        local holder
        ! holder=$(holder_of "$HELLO_PORT") || problem="$holder: run HELLO_PORT=8090 make demo"
    fi
    [ -z "$problem" ] || { echo "demo: $problem" >&2; exit 1; }
}

begin() {
    if ! carrack version >/dev/null 2>&1; then
        mkdir -p $state
        inventory | sort >$state/inventory.before
        show "carrack daemon -d --state-dir $state --runtime-dir $run"
        start_daemon || exit 1
    fi
}

own_file() {
    needs own
    begin
    show "carrack deploy -f $1"
    carrack deploy -f "$1"
    local code=$?
    [ $code = 0 ] && carrack ls
    farewell "$(carrack ls -o json | jq -r 'last | .name // "TARGET"')"
    exit $code
}

# farewell TARGET: how to look around and how to stop
farewell() {
    cat <<TXT

Look around:   export CARRACK_HOST=$CARRACK_HOST
               $CARRACK ps        $CARRACK logs -f $1        $CARRACK --help
Stop:          make demo-down
TXT
}

# distinct N COMMAND...: N different answers
distinct() {
    local wanted=$1 seen=""
    shift
    for _ in $(seq 60); do
        seen=$(printf '%s\n%s' "$seen" "$("$@" 2>/dev/null)" | grep . | sort -u)
        [ "$(wc -l <<<"$seen")" -ge "$wanted" ] && { printf '%s\n' "$seen"; return 0; }
    done
    printf '%s\n' "$seen"
    return 1
}

case ${1:-} in
--down) down; exit $? ;;
?*) own_file "$1" ;;
esac

needs
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
echo "Carrack demo: one host, $("$CARRACK" --version), $(stat -c %s "$CARRACK" | numfmt --to=iec)B static binary"

step "this host: what is there, what is not, and what that costs"
show "carrack doctor"
facts=$(carrack doctor --state-dir $state -o json)
whole=$?
jq -r '.[] | select(.verdict != "ok" or (.name | test("^(kernel|cgroup|overlayfs|nftables|vxlan)|firewall")))
    | "\(.verdict)\t\(.name)\t\(.found)\t\(.cost)"' <<<"$facts" |
    awk -F'\t' '{printf "  %-8s %-20s %s\n", $1, $2, $3; if ($4 != "") printf "  %-29s costs: %s\n", "", $4}'
if [ $whole = 0 ]; then ok "$(jq length <<<"$facts") checks, nothing is missing"; else bad "something is missing"; fi

step "a daemon: this host becomes a cluster of one"
t=$(now_ms)
begin
carrack version && ok "answers after $(($(now_ms) - t)) ms, $(awk '/^VmRSS/ {print int($2/1024)}' /proc/"$(daemon_pid)"/status) MiB resident"

step "images, made from Debian packages, loaded without any registry"
loaded=1
for name in hello-web hello-redis busybox; do
    show "carrack image load -i $name.tar"
    carrack image load -i "$IMAGES/$name.tar" || loaded=0
done
[ $loaded = 1 ] && ok "$(carrack image ls -o json | jq length) images" || bad "images"

step "the hello stack: web with 3 replicas, redis behind a name"
show "carrack deploy -f examples/hello/compose.yaml"
t=$(now_ms)
if carrack deploy -f "$root/examples/hello/compose.yaml"; then ok "healthy after $(($(now_ms) - t)) ms"; else bad "deploy"; fi
show "carrack ps" && carrack ps

step "no dockerd, no containerd: containers are children of carrack's own supervisors"
strangers=""
for pid in $(pids hello); do
    parent=$(awk '/^PPid/ {print $2}' /proc/"$pid"/status)
    [[ $(tr '\0' ' ' <"/proc/$parent/cmdline") == carrack-supervisor* ]] || strangers="$strangers $pid"
done
if [ -z "$strangers" ]; then ok "$(pids hello | wc -w) containers, each below a supervisor of carrack; dockerd running here: $(pgrep -x dockerd >/dev/null && echo 'yes, not used' || echo no)"
else bad "not below carrack:$strangers"; fi

step "three replicas answer on localhost"
show "curl $url   # until three names are seen"
if distinct 3 curl -s --max-time 5 "$url"; then ok "3 distinct answers"; else bad "fewer than 3"; fi

step "and on the virtual IP"
vip=$(carrack ls -o json | jq -r '.[] | select(.name == "hello") | .services[] | select(.service == "hello/web") | .vips[0]')
show "curl $vip"
if distinct 3 curl -s --max-time 5 "$vip"; then ok "3 distinct answers from $vip"; else bad "fewer than 3"; fi

step "redis is found by its name; it declares no port"
show "curl $url/visits   # twice"
a=$(curl -s --max-time 5 "$url/visits") b=$(curl -s --max-time 5 "$url/visits")
printf '%s\n%s\n' "$a" "$b"
if [[ $a == visit* && $b == visit* && ${a%%,*} != "${b%%,*}" ]]; then ok "replicas count together"; else bad "no count"; fi

step "kill -9 of the daemon under load"
before=$(pids hello)
pid=$(daemon_pid)
stop_load=$scratch/stop-load
"$load" "127.0.0.1:$HELLO_PORT" / --clients 4 --seconds 30 --until "$stop_load" >"$stop_load.out" 2>&1 &
loader=$!
sleep 1
show "kill -9 $pid   # the daemon"
kill -9 "$pid"
sleep 2
show "carrack daemon -d   # again"
t=$(now_ms)
start_daemon
up=$(($(now_ms) - t))
wait_for 10 test "$(pids hello)" = "$before"
sleep 1
touch "$stop_load"
wait $loader
loss=$?
cat "$stop_load.out"
if [ $loss = 0 ] && [ "$(pids hello)" = "$before" ]; then ok "no request lost, container pids unchanged ($before), daemon back in $up ms"; else bad "pids before: $before after: $(pids hello)"; fi

step "a container is killed"
victim=$(carrack ps hello/web -o json | jq -r '.[0].pid')
slot=$(carrack ps hello/web -o json | jq -r '.[0] | "\(.service).\(.slot)"')
back() { carrack ps hello/web -o json | jq -e --argjson old "$victim" 'all(.[]; .pid != $old and .health == "passing")' >/dev/null; }
show "kill -9 $victim   # $slot"
t=$(now_ms)
kill -9 "$victim"
if wait_for 20 back; then ok "back in $(($(now_ms) - t)) ms as seen by carrack ps"; else bad "not back"; fi

step "scale"
show "carrack scale hello/web=5"
t=$(now_ms)
carrack scale hello/web=5
five() { [ "$(passing)" = 5 ]; }
if wait_for 20 five && distinct 5 curl -s --max-time 5 "$url" >/dev/null; then ok "5 distinct answers after $(($(now_ms) - t)) ms"; else bad "$(passing) passing"; fi

step "limits act: 32 MiB for one that takes 64, a tenth of a CPU for one that takes all"
cat >"$scratch/limits.yaml" <<'YAML'
name: limits
services:
  hungry: {image: "busybox:1", command: dd if=/dev/zero of=/dev/null bs=64M count=1, mem_limit: 32m, restart: "no"}
  busy: {image: "busybox:1", command: [sh, -c, "while :; do :; done"], cpus: 0.1, stop_grace_period: 0s}
YAML
show "carrack deploy -f limits.yaml -d"
carrack deploy -f "$scratch/limits.yaml" -d
exit_of() { carrack ps -a limits/hungry -o json | jq -e '.[0].exit // empty'; }
throttled() { carrack inspect limits/busy.1 | jq -e '[.. | .throttled_periods? // empty] | max // 0 | select(. > 0)'; }
wait_for 30 exit_of >/dev/null
periods=$(wait_for 30 throttled)
show "carrack ps -a limits" && carrack ps -a limits
show "carrack events limits/hungry" && carrack events limits/hungry
show "carrack inspect limits/hungry.1   # its exit"
carrack inspect limits/hungry.1 | jq -c '[.. | .exit? // empty] | first'
show "carrack stats --no-stream limits" && carrack stats --no-stream limits
if exit_of | jq -e '.oom and .peak_memory > 0' >/dev/null && [ "${periods:-0}" -gt 0 ]; then
    ok "the one was killed for lack of memory and everybody says so; the other is held back to a tenth of a CPU"
else bad "exit: $(exit_of | jq -c .) throttled: ${periods:-no}"; fi
carrack down -p limits >/dev/null

step "an application of awesome-compose, its files as they are: carrack has built what it builds"
# Its names of images lead to what was made of Debian packages. All that buildah keeps is in a directory of this step.
flask=$root/examples/flask-redis
store=$state/buildah
mkdir -p $store/tmp
printf '[storage]\ndriver = "vfs"\ngraphroot = "%s"\nrunroot = "%s"\n' $store/root $store/run >$store/storage.conf
building() { CONTAINERS_STORAGE_CONF=$store/storage.conf TMPDIR=$store/tmp BUILDAH_ISOLATION=chroot "$@"; }
building buildah tag "$(building buildah pull -q "oci:$IMAGES/oci:python")" docker.io/library/python:3.10-alpine
show "carrack image tag hello-redis:1 redislabs/redismod"
carrack image tag hello-redis:1 redislabs/redismod
files=(-f "$flask/compose.yaml")
port=8000
if holder_of 8000 6379; then
    port=$((HELLO_PORT + 1))
    printf 'services: {redis: {ports: !reset []}, web: {ports: !override ["%s:8000"]}}\n' $port >"$scratch/ports.yaml"
    files+=(-f "$scratch/ports.yaml")
fi
show "carrack deploy --build ${files[*]}"
t=$(now_ms)
a="" b=""
if building carrack deploy --build --builder buildah "${files[@]}"; then
    t=$(($(now_ms) - t))
    show "curl localhost:$port   # twice"
    a=$(curl -s --max-time 5 localhost:$port) b=$(curl -s --max-time 5 localhost:$port)
    printf '%s\n%s\n' "$a" "$b"
fi
if [[ $a == *"viewed 1 time"* && $b == *"viewed 2 time"* ]]; then ok "built and healthy after $t ms, and it counts"; else bad "no count"; fi
carrack down -v -p flask-redis >/dev/null
rm -rf $store

step "a bad file"
printf 'services:\n  web:\n    image: hello-web:1\n    prots: ["80"]\n' >"$scratch/bad.yaml"
show "carrack deploy -p hello -f bad.yaml"
said=$(carrack deploy -p hello -f "$scratch/bad.yaml" 2>&1)
code=$?
echo "$said"
if [ $code != 0 ] && grep -q 'bad.yaml:4:5' <<<"$said" && grep -qi 'ports' <<<"$said"; then ok "refused with file:line:column and a hint, exit code $code"; else bad "exit code $code"; fi

step "a bad image"
before=$(pids hello)
sed 's/hello-web:1/hello-web:nope/' "$root/examples/hello/compose.yaml" >"$scratch/bad-image.yaml"
show "carrack deploy -p hello -f bad-image.yaml"
said=$(carrack deploy -p hello -f "$scratch/bad-image.yaml" 2>&1)
code=$?
echo "$said"
if [ $code != 0 ] && [ "$(pids hello)" = "$before" ] && curl -sf --max-time 5 "$url" >/dev/null; then ok "refused, exit code $code; the old tasks serve"; else bad "exit code $code"; fi

farewell hello/web
printf '\ndemo: %d/%d ok in %d s\n' "$good" "$steps" "$(($(date +%s) - began))"
[ "$good" = "$steps" ]
