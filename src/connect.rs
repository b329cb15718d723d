//! Connecting to a bus by its URL.

use crate::bus::memory::{MemoryBuilder, MemoryBus};
use crate::bus::{Bus, BusError, Connecting};
use crate::error::ConfigError;
use crate::runtime::Runtime;

impl Bus {
    /// Connects to what `url` names: `memory:` is the embedded bus, `nats://host` and `tls://host` are servers of NATS
    /// (feature `nats`). Options stand in the query, by the names that the bus's builder has for them:
    /// `memory:?partitions=4&capacity=1000`, `nats://a:4222,b?ack_mode=floor`. Who we are stands before the host, never
    /// in the query: `nats://user:password@host`.
    ///
    /// # Errors
    /// The result's: [`BusError::UnknownUrl`] for any other kind of URL, [`BusError::InvalidUrl`] for a part that
    /// such a URL does not have, [`BusError::Config`] for an option that is unknown or out of its range,
    /// [`BusError::Thread`] if the system gives no thread, [`BusError::Broker`] if no server takes us.
    ///
    /// ```
    /// use keylane::{Bus, BusError, Record, Runtime};
    ///
    /// let runtime = Runtime::builder().workers(1).build()?;
    /// let bus = Bus::connect(&runtime, "memory:?partitions=4").wait()?;
    /// assert!(bus.publish("orders", Record::new("order-42", "paid")).wait()?.partition < 4);
    /// assert!(Bus::connect(&runtime, "memory:?partition=4").wait().is_err());
    /// let refused = Bus::connect(&runtime, "carrier-pigeon://coop").wait().unwrap_err();
    /// assert!(matches!(refused, BusError::UnknownUrl(scheme) if scheme == "carrier-pigeon"));
    /// # runtime.stop_now();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect(runtime: &Runtime, url: &str) -> Connecting {
        let ready = match url.split_once(':') {
            Some(("memory", rest)) => embedded(runtime, rest),
            #[cfg(feature = "nats")]
            Some(("nats" | "tls", _)) => return over_nats(runtime, url),
            // Only the scheme is named: the rest may hold a secret.
            Some((scheme, _)) => Err(BusError::UnknownUrl(scheme.chars().take(32).collect())),
            None => Err(BusError::UnknownUrl(String::new())),
        };
        Connecting::ready(runtime, ready)
    }
}

#[cfg(feature = "nats")]
fn over_nats(runtime: &Runtime, url: &str) -> Connecting {
    let (answer, reply) = crate::reply::reply();
    match crate::bus::nats::NatsBus::builder(runtime, url).connect_any(answer) {
        Ok(()) => Connecting::later(runtime, reply),
        Err(error) => Connecting::ready(runtime, Err(error)),
    }
}

fn embedded(runtime: &Runtime, rest: &str) -> Result<Bus, BusError> {
    Ok(memory(MemoryBus::builder(runtime), rest)?.build()?.bus())
}

/// An option of a bus that is a number, and what sets it.
type Number<B> = (&'static str, fn(B, usize) -> B);

const MEMORY: &[Number<MemoryBuilder>] =
    &[("partitions", MemoryBuilder::partitions), ("capacity", MemoryBuilder::capacity)];

/// The options of a memory bus in what follows its scheme.
fn memory(mut builder: MemoryBuilder, rest: &str) -> Result<MemoryBuilder, BusError> {
    let refuse = |part, allowed| BusError::InvalidUrl { scheme: "memory", part, allowed };
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !address.is_empty() {
        return Err(refuse(
            "address",
            "it has none: `memory:`, or with options `memory:?partitions=4`",
        ));
    }
    let mut given = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let Some((name, value)) = option.split_once('=') else {
            return Err(refuse("query", "options are `name=value`, with `&` between them"));
        };
        if given.contains(&name) {
            return Err(refuse("query", "an option is given once"));
        }
        given.push(name);
        let known = MEMORY.iter().find(|known| known.0 == name);
        let Some(&(name, set)) = known else { return Err(BusError::Config(unknown(name))) };
        // Digits alone: no sign, no space.
        let number = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
        let number = number.and_then(|value| value.parse().ok());
        let number = number.ok_or_else(|| {
            BusError::Config(ConfigError::invalid(name, value, "a number in digits"))
        })?;
        builder = set(builder, number);
    }
    Ok(builder)
}

fn unknown(name: &str) -> ConfigError {
    let near = |option: &&str| option.contains(name) || name.contains(*option);
    ConfigError::unknown(name, MEMORY.iter().map(|known| known.0).find(near))
}
