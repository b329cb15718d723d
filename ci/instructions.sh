#!/usr/bin/env bash
# What a record costs on the steady path: instructions and locked instructions, on the producer's side and on the
# worker's, counted by callgrind, and its allocations. Fails if a count is more than 5 % above ci/instructions.txt.
#
#   ci/instructions.sh            prints the tables and compares them with the baseline
#   ci/instructions.sh WAY…       only these ways: see benches/support/bin/steady.rs
#   ci/instructions.sh --record   makes what is counted the baseline of this compiler and target
#   ci/instructions.sh --with FEATURES [--heard] WAY…
#                                 prints the table with the features metrics, tracing or both; compares nothing.
#                                 --heard: an exporter publishes once a round, and a subscriber wants every span
#
# Ways: each runs twice, with 10 and with 30 rounds: the difference is what 20 rounds cost, whatever starting costs.
# Producer and worker are threads of their own, one held while the other runs, so neither spins, and they sleep as
# often in every run: once a round. Parts (benches/support/bin/parts.rs) are counted on one thread.
# What the load's loop and the handler's own work cost is counted by itself and subtracted from the ways; the
# parts' figures have their loops in them.
. "$(dirname "$0")/lib.sh"

baseline=ci/instructions.txt
# Percent above the baseline that fail, and below it that ask for a new one; what a swap may add.
most=5 swap_most=2
all_ways=(single spread sparse batch-single batch grouped ready receipt swap)
few=10 many=30

record=no with= heard=
[ "${1:-}" != --record ] || { record=yes; shift; }
[ "${1:-}" != --with ] || { with=${2:?which features}; shift 2; }
[ -z "$with" ] || [ "${1:-}" != --heard ] || { heard=heard; shift; }
ways=("$@")
[ $# -gt 0 ] || ways=("${all_ways[@]}")

have valgrind || not_run_optional "instructions are counted with valgrind, which is missing"
have objdump || not_run_optional "locked instructions are found with objdump, which is missing"
case $host in x86_64-*linux*) ;; *) not_run_optional "locked instructions are known by name on x86-64 only" ;; esac
# Another compiler writes other instructions.
section="rustc $(rustc -V | cut -d ' ' -f 2) $host"

cargo build --locked --release -p keylane-bench-support --bin steady --bin parts ${with:+--features "$with"}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# The C library copies memory by other instructions on other processors: here always by those of every x86-64.
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM

# locked BINARY: addresses of instructions that lock a line: `lock …`, and `xchg` with memory, which locks by itself.
locked() {
    objdump -d --no-show-raw-insn "$target/release/$1" | awk '
        /^ +[0-9a-f]+:/ && (/\tlock / || /\txchg .*\(/) { sub(":", "", $1); print $1 }' >"$out/locked.$1"
}

# count BINARY FILE: instructions and locked ones of one callgrind file.
count() {
    [ -s "$2" ] || fail "callgrind wrote no $(basename "$2")"
    awk -v binary="/$1\$" '
        FNR == NR { locked["0x" $1]; next }
        /^ob=/ { own = ($0 ~ binary); next }
        /^calls=/ { called = 1; next }
        /^0x/ {
            if (called) { called = 0; next }
            all += $3
            if (own && $1 in locked) some += $3
        }
        END { print all + 0, some + 0 }' "$out/locked.$1" "$2"
}

# slope FEW MANY UNITS: what a unit costs, of two lines of `count`.
slope() { awk -v n="$3" '{ a[NR] = $1; b[NR] = $2 } END { printf "%.3f %.3f\n", (a[2] - a[1]) / n, (b[2] - b[1]) / n }' <<<"$1"$'\n'"$2"; }

callgrind() {
    local file=$1
    shift
    valgrind --tool=callgrind --dump-instr=yes --compress-strings=no --compress-pos=no \
        --callgrind-out-file="$file" "$@" 2>"$out/log" || { cat "$out/log" >&2; fail "$*"; }
}

locked parts
locked steady

# Parts: `name instructions locked` a line. Callgrind numbers the calls that it writes down.
callgrind "$out/part" --dump-after=keylane_part --zero-before=keylane_part "$target/release/parts" >"$out/said"
call=0
declare -A before
while read -r name units; do
    call=$((call + 1))
    now=$(count parts "$out/part.$call")
    if [ -n "${before[$name]:-}" ]; then
        read -r units_before counted <<<"${before[$name]}"
        echo "$name $(slope "$counted" "$now" $((units - units_before)))"
    else
        before[$name]="$units $now"
    fi
done <"$out/said" >"$out/parts"
part() { awk -v name="$1" '$1 == name { print $2 }' "$out/parts"; }
load=$(part load) handler=$(part handler)
[ -n "$load" ] && [ -n "$handler" ] || fail "callgrind wrote no parts"

# Ways: `name producer worker locked locked allocations` a line.
for way in "${ways[@]}"; do
    # Not under callgrind: fails if a record allocates more than it may.
    allocations=$("$target/release/steady" "$way" $many $heard) || fail "allocations of $way"
    for rounds in $few $many; do
        callgrind "$out/$way.$rounds" --separate-threads=yes "$target/release/steady" "$way" $rounds bare $heard >"$out/said.$rounds"
    done
    [ "$(echo "$out/$way.$few"-*)" = "$(echo "$out/$way.$few"-0{1,2,3,4})" ] || fail "$way has other threads than four"
    records=$(($(awk '{ print $2 }' "$out/said.$many") - $(awk '{ print $2 }' "$out/said.$few")))
    # The first thread is the producer, the second the monitor, the third the worker; the fourth belongs to the load.
    costs=
    for thread in 01 03; do
        costs+=" $(slope "$(count steady "$out/$way.$few-$thread")" "$(count steady "$out/$way.$many-$thread")" $records)"
    done
    read -r producer lock_producer worker lock_worker <<<"$costs"
    awk -v name="$way" -v p="$producer" -v w="$worker" -v load="$load" -v handler="$handler" \
        -v rest="$lock_producer $lock_worker $(awk '{ print $4 }' <<<"$allocations")" \
        'BEGIN { printf "%s %.3f %.3f %s\n", name, p - load, w - handler, rest }'
done >"$out/ways"

echo "instructions a record, less the load's loop ($load) and the handler's own work ($handler)"
echo "$(stamp), $(valgrind --version)${with:+; with $with${heard:+, heard}}"
echo
printf '%-13s %9s %8s %9s %8s %9s %12s\n' way producer locked worker locked sum allocations
awk '{ printf "%-13s %9.1f %8.2f %9.1f %8.2f %9.1f %12s\n", $1, $2, $4, $3, $5, $2 + $3, $6 }' "$out/ways"
echo
printf '%-13s %9s %8s   with a loop as in the first row\n' part each locked
awk '{ printf "%-13s %9.1f %8.2f\n", $1, $2, $3 }' "$out/parts"
echo

# Features cost what they cost: the baseline is that of the crate without.
[ -z "$with" ] || exit 0

failures=0
bad() { echo "FAILED: $*" >&2; failures=$((failures + 1)); }

# What needs no baseline: the locked instructions of a push and of a drain with all that they call, and a swap's share.
for exact in "push 1.000" "pop 0.000"; do
    grep -q "^${exact% *} .* ${exact#* }\$" "$out/parts" \
        || bad "${exact% *}: $(awk -v name="${exact% *}" '$1 == name { print $3 }' "$out/parts") locked instructions, not ${exact#* }"
done
share=$(awk '$1 == "single" { single = $2 + $3 } $1 == "swap" { swap = $2 + $3 }
    END { if (single && swap) printf "%.2f", (swap / single - 1) * 100 }' "$out/ways")
if [ -n "$share" ]; then
    echo "one swap in 1,000 records: $share % more instructions, at most $swap_most %"
    awk -v is="$share" -v most=$swap_most 'BEGIN { exit !(is <= most) }' || bad "one swap in 1,000 records adds $share %"
fi

# The gated rows: `name count` a line.
{
    awk '{ printf "%s.producer %.1f\n%s.worker %.1f\n%s.sum %.1f\n", $1, $2, $1, $3, $1, $2 + $3 }' "$out/ways"
    # The harness is not the crate's.
    awk '$1 !~ /^(loop|load|handler)$/ { printf "%s %.1f\n", $1, $2 }' "$out/parts"
} >"$out/rows"

# section: the rows of this compiler and target in the baseline.
section() { awk -v title="[$section]" '/^\[/ { inside = ($0 == title); next } inside && NF == 2 && !/^#/' "$baseline" 2>/dev/null || true; }

if [ $record = yes ]; then
    [ $# = 0 ] || fail "a baseline has all ways: --record takes no others"
    [ $failures = 0 ] || fail "$failures limits are missed; nothing was recorded"
    {
        awk -v title="[$section]" '/^\[/ { inside = ($0 == title) } !inside' "$baseline" 2>/dev/null | cat -s
        echo "[$section]"
        cat "$out/rows"
        echo
    } >"$out/baseline"
    cp "$out/baseline" "$baseline"
    echo "recorded in $baseline: commit it by itself and say why it moved"
    exit
fi

section >"$out/before"
if [ ! -s "$out/before" ]; then
    [ $failures = 0 ] || fail "$failures limits are missed"
    not_run_optional "$baseline has nothing for $section; ci/instructions.sh --record would write it"
fi
while read -r verdict; do
    case $verdict in FAILED*) bad "${verdict#FAILED: }" ;; *) echo "$verdict" ;; esac
done < <(awk -v most=$most -v some=$# '
    FNR == NR { before[$1] = $2; next }
    { now[$1] }
    !($1 in before) { print "FAILED: " $1 ": " $2 ", not in the baseline: --record it"; next }
    {
        was = before[$1]
        # Of less than a tenth nothing is written down.
        percent = was > 0 ? ($2 / was - 1) * 100 : ($2 > 0.1 ? 100 : 0)
        if (percent > most) printf "FAILED: %s: %.1f before, %.1f now (%+.1f %%)\n", $1, was, $2, percent
        else if (percent < -most) printf "%s: %.1f before, %.1f now (%+.1f %%): move the baseline with --record\n", $1, was, $2, percent
    }
    END { if (!some) for (name in before) if (!(name in now)) print "FAILED: " name ": in the baseline, not counted: --record" }
' "$out/before" "$out/rows")
[ $failures = 0 ] || fail "$failures limits are missed"
echo "within $most % of the baseline: $(wc -l <"$out/rows") rows"
