#!/usr/bin/env bash
# The envelope against Go: the golden vectors are what their generator prints, and random envelopes and
# broken documents mean the same on both sides. (Against the stored vectors alone: ci/cargo-test.sh.)
. "$(dirname "$0")/lib.sh"

[ -f tests/golden/go.mod ] || not_run "there is no tests/golden"
have go || not_run_optional "go is not installed"

export GOFLAGS="-mod=readonly ${GOFLAGS:-}"
(cd tests/golden && go mod download) || not_run "go cannot download the encoder's modules"
(cd tests/golden && go vet ./... && go run .) >"$target/golden.json"
# Whatever form git or an editor gives a line's end.
diff <(tr -d '\r' <"$target/golden.json") <(tr -d '\r' <tests/golden/vectors.json) >"$target/golden.diff" \
    || { head -n 40 "$target/golden.diff"; fail "tests/golden/vectors.json is not what the generator prints"; }
echo "golden vectors: $(wc -l <tests/golden/vectors.json) lines, as generated"
cargo test --locked --features "$(all_features)" --test envelope_differential -- --nocapture
