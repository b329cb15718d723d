//! A bus' address: the servers, who we are, and options in the query.
//!
//! `nats://[user:password@|token@]host[:port][,[nats://]host[:port]]...[?option=value[&...]]`, or `tls://` for servers
//! that are to be reached over TLS only. What is not readable is refused without repeating it: it may hold a secret.

use super::secret::Secret;
use crate::bus::BusError;

const PORT: u16 = 4222;
/// Servers of one address.
const MAX_SERVERS: usize = 64;

/// What an address says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Address {
    /// `nats://host:port` each, without anything else.
    pub(super) servers: Vec<String>,
    /// Whether one of them asks for TLS: then all are to have it.
    pub(super) tls: bool,
    pub(super) login: Option<Login>,
    /// Names and values, decoded.
    pub(super) query: Vec<(String, String)>,
}

/// The userinfo of an address.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Login {
    User(String, Secret),
    Token(Secret),
}

impl Address {
    /// Reads an address.
    pub(super) fn parse(text: &str) -> Result<Self, BusError> {
        let (servers, query) = text.split_once('?').unwrap_or((text, ""));
        let mut address = Self { query: options(query)?, ..Self::default() };
        for server in servers.split(',') {
            let (scheme, rest) = server.trim().split_once("://").unwrap_or(("nats", server.trim()));
            address.tls |= match scheme {
                "nats" => false,
                "tls" => true,
                _ => return Err(refuse("scheme", "`nats://` or `tls://`")),
            };
            // A password's `@` is written %40, so that the last one ends the userinfo.
            let (userinfo, place) = match rest.rsplit_once('@') {
                Some((userinfo, place)) => (Some(userinfo), place),
                None => (None, rest),
            };
            address.servers.push(server_of(place)?);
            if let Some(login) = userinfo.map(login_of).transpose()? {
                if address.login.as_ref().is_some_and(|first| *first != login) {
                    return Err(refuse(
                        "userinfo",
                        "it is the same for all servers, or given once",
                    ));
                }
                address.login = Some(login);
            }
        }
        if address.servers.len() > MAX_SERVERS {
            return Err(refuse("server list", "it has at most 64 servers"));
        }
        Ok(address)
    }
}

fn refuse(part: &'static str, allowed: &'static str) -> BusError {
    BusError::InvalidUrl { scheme: "nats", part, allowed }
}

fn login_of(userinfo: &str) -> Result<Login, BusError> {
    let read = |text| decoded(text).ok_or_else(|| refuse("userinfo", ENCODING));
    match userinfo.split_once(':') {
        Some(("", _)) => Err(refuse("userinfo", "`user:password@` or `token@`")),
        Some((user, password)) => Ok(Login::User(read(user)?, Secret::new(read(password)?))),
        None if userinfo.is_empty() => Err(refuse("userinfo", "`user:password@` or `token@`")),
        None => Ok(Login::Token(Secret::new(read(userinfo)?))),
    }
}

const ENCODING: &str = "it is UTF-8, with %XX for what has a meaning of its own";

/// `host[:port]` or `[v6][:port]`, with the port that goes without saying.
fn server_of(place: &str) -> Result<String, BusError> {
    let wrong = || refuse("host", "`host`, `host:port` or `[v6 address]:port`, and no path");
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            match rest.strip_prefix(':') {
                None if rest.is_empty() => (format!("[{host}]"), None),
                None => return Err(wrong()),
                port => (format!("[{host}]"), port),
            }
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (place.to_owned(), None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
        return Err(wrong());
    }
    let port = match port {
        None => PORT,
        Some(digits) => number(digits)
            .filter(|port| *port > 0)
            .ok_or_else(|| refuse("port", "a number from 1 to 65535"))?,
    };
    Ok(format!("nats://{host}:{port}"))
}

/// Digits alone: no sign, no space.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn options(query: &str) -> Result<Vec<(String, String)>, BusError> {
    let mut options: Vec<(String, String)> = Vec::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let Some((name, value)) = option.split_once('=') else {
            return Err(refuse("query", "options are `name=value`, with `&` between them"));
        };
        if options.iter().any(|(given, _)| given == name) {
            return Err(refuse("query", "an option is given once"));
        }
        let value = decoded(value).ok_or_else(|| refuse("query", ENCODING))?;
        options.push((name.to_owned(), value));
    }
    Ok(options)
}

/// Text with `%XX` for bytes. `+` is itself.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                // Two hexadecimal digits fit a byte.
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn servers_are_made_whole() {
        let servers = |text: &str| parse(text).servers;
        assert_eq!(servers("nats://a"), ["nats://a:4222"]);
        assert_eq!(
            servers("a:1,nats://b.c, d"),
            ["nats://a:1", "nats://b.c:4222", "nats://d:4222"]
        );
        assert_eq!(servers("nats://[::1]"), ["nats://[::1]:4222"]);
        assert_eq!(servers("nats://[::1]:7/"), ["nats://[::1]:7"]);
        assert!(!parse("nats://a").tls);
        assert!(parse("nats://a,tls://b").tls, "one that asks for TLS asks for all");
    }

    #[test]
    fn userinfo_is_decoded_and_hidden() {
        let address = parse("nats://al%69ce:p%40ss%2C%3Aw:rd@a,b");
        assert_eq!(address.login, Some(Login::User("alice".into(), Secret::new("p@ss,:w:rd"))));
        assert!(!format!("{address:?}").contains("p@ss"));
        assert_eq!(parse("nats://t0ken@a").login, Some(Login::Token(Secret::new("t0ken"))));
        assert_eq!(parse("nats://x:y@a,nats://x:y@b").servers.len(), 2);
    }

    #[test]
    fn options_are_decoded() {
        let query = parse("nats://a?ack_mode=floor&window=1000&ca_file=%2Fetc%2Fa+b").query;
        let query: Vec<_> = query.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(query, [("ack_mode", "floor"), ("window", "1000"), ("ca_file", "/etc/a+b")]);
    }

    #[test]
    fn what_is_wrong_is_refused_and_not_repeated() {
        let many = vec!["canary"; MAX_SERVERS + 1].join(",");
        for wrong in [
            "ws://canary",
            "nats://",
            "nats://canary,",
            "nats://u:canary@",
            "nats://u:can/ary@h/x/y",
            "nats://u:can%zzary@h",
            "nats://u:can%4",
            "nats://u:%ffcanary@h",
            "nats://:canary@h",
            "nats://@canary",
            "nats://canary:0",
            "nats://canary:65536",
            "nats://canary:+1",
            "nats://canary:",
            "nats://can ary",
            "nats://[canary]",
            "nats://[::1]canary",
            "nats://[::1",
            "nats://a:canary@x,b:canary@y",
            "nats://h?canary",
            "nats://h?a=canary&a=canary",
            "nats://h?a=canary%",
            "nats://h/canary",
            "nats://h#canary",
            &many,
        ] {
            let error = Address::parse(wrong).map(|address| panic!("{wrong}: {address:?}"));
            let Err(error) = error;
            let text = format!("{error} {error:?}");
            assert!(!text.contains("can"), "{wrong}: {text}");
        }
    }
}
