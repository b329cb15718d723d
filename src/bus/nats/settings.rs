//! Options of a NATS bus in a configuration file.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::options::NatsBuilder;
use super::options::NatsOptions;
use super::secret::Secret;
use super::url::Address;
use crate::bus::BusError;
use crate::config::serde_impl::Text;

/// Options of a bus over NATS, read from any self-describing format such as TOML and JSON, by the names that
/// [`NatsBuilder::set`] takes. Unknown names and values out of range are refused when it is read. It prints no value.
///
/// A parser may show the line that it refuses: a password is better kept in the environment or in a `creds_file`.
///
/// ```
/// use keylane::{Runtime, nats::{NatsBus, NatsSettings}};
///
/// let settings: NatsSettings = toml::from_str(
///     r#"
///         servers = "tls://a.example:4222,b.example"
///         creds_file = "/run/secrets/orders.creds"
///         ack_mode = "floor"
///         window = 4000
///         tls_first = true
///     "#,
/// )?;
/// let runtime = Runtime::builder().workers(1).build()?;
/// let builder = NatsBus::builder(&runtime, "nats://localhost").settings(&settings)?;
/// assert!(format!("{builder:?}").contains("b.example"));
/// assert!(toml::from_str::<NatsSettings>("windo = 4000").is_err());
/// # runtime.stop_now();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct NatsSettings(Vec<(String, Secret)>);

impl NatsBuilder {
    /// Sets what a configuration file has set.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn settings(mut self, settings: &NatsSettings) -> Result<Self, BusError> {
        for (name, value) in &settings.0 {
            self.set(name, value.expose())?;
        }
        Ok(self)
    }
}

impl<'de> Deserialize<'de> for NatsSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = NatsSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of options")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NatsSettings, A::Error> {
        let mut settings: Vec<(String, Secret)> = Vec::new();
        let mut scratch = NatsOptions::default();
        while let Some(name) = map.next_key_seed(Text)? {
            if settings.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format_args!("option `{name}` is given twice")));
            }
            let value = map.next_value_seed(Text)?;
            match name.as_str() {
                "servers" => drop(Address::parse(&value).map_err(A::Error::custom)?),
                _ => scratch.set(&name, &value).map_err(A::Error::custom)?,
            }
            settings.push((name, Secret::new(value)));
        }
        Ok(NatsSettings(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_refused_and_not_repeated() {
        let read = serde_json::from_str::<NatsSettings>;
        for (text, told) in [
            (r#"{"windo": 1}"#, "did you mean `window`?"),
            (r#"{"window": 0}"#, "`window` is 0"),
            (r#"{"window": 1, "window": 2}"#, "`window` is given twice"),
            (r#"{"password": "canary", "ack_mode": "Each"}"#, "`ack_mode`"),
            (r#"{"servers": "nats://u:canary@h/path"}"#, "no path"),
            (r#"["canary"]"#, "a map of options"),
        ] {
            let error = read(text).map(|settings| panic!("{settings:?}"));
            let Err(error) = error;
            assert!(error.to_string().contains(told), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        let settings = read(r#"{"password": "canary", "user": "u", "tls": true, "window": 7}"#);
        let settings = settings.unwrap();
        assert!(!format!("{settings:?}").contains("canary"));
        assert_eq!(settings.0.len(), 4);
    }
}
