#!/usr/bin/env bash
# TLS to NATS in a program that has both of rustls' providers built in, where what does not name one panics.
. "$(dirname "$0")/lib.sh"

ci/nats.sh fetch >/dev/null || not_run "nats-server is not to be had"
have openssl || not_run "certificates need openssl"

work=$target/tls-providers
server=$work/server
# shellcheck disable=SC2317 # called by the trap
end() { [ ! -d "$server" ] || ci/nats.sh stop "$server"; }
trap end EXIT
end
rm -rf "$work"
mkdir -p "$work/src"
cp Cargo.lock "$work"
cat >"$work/Cargo.toml" <<MANIFEST
[package]
name = "tls-providers"
version = "0.0.0"
edition = "2024"
[workspace]
[dependencies]
keylane = { path = "$root", features = ["nats"] }
rustls = { version = "0.23", default-features = false, features = ["ring", "aws-lc-rs", "std"] }
MANIFEST
cat >"$work/src/main.rs" <<'PROGRAM'
use keylane::{BrokerErrorKind, Bus, BusError, Runtime};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nameless = std::panic::catch_unwind(rustls::ClientConfig::builder);
    assert!(nameless.is_err(), "rustls has chosen a provider: this program proves nothing");
    let [url, ca, other] = [1, 2, 3].map(|n| std::env::args().nth(n).unwrap_or_default());
    let runtime = Runtime::builder().workers(1).build()?;
    Bus::connect(&runtime, &format!("{url}?ca_file={ca}")).wait()?;
    match Bus::connect(&runtime, &format!("{url}?ca_file={other}")).wait() {
        Err(BusError::Broker(error)) if error.kind() == BrokerErrorKind::Unauthenticated => {}
        other => panic!("{other:?}"),
    }
    println!("connected over TLS with both providers in the program");
    Ok(())
}
PROGRAM

cargo build --manifest-path "$work/Cargo.toml" --target-dir "$target/tls-providers-build"
url=$(ci/nats.sh start "$server" --security)
"$target/tls-providers-build/debug/tls-providers" \
    "tls://alice:$(cat "$server/security/password")@${url#nats://}" \
    "$server/security/ca.pem" "$server/security/other-ca.pem"
