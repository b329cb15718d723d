//! Why no server was connected to, in words and with what to do.

use std::error::Error;
use std::io;

use async_nats::{ConnectError, ConnectErrorKind};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::auth::Auth;
use super::options::NatsOptions;
use crate::bus::{BrokerError, BrokerErrorKind};

/// The error of a first connect, which tried every server once.
pub(super) fn refusal(error: &ConnectError, auth: &Auth, options: &NatsOptions) -> BrokerError {
    let servers = options.servers.join(", ");
    let unknown = |text: String| BrokerError::new(BrokerErrorKind::Unauthenticated, text);
    if let Some(error) = within::<rustls::Error>(error) {
        return match over_tls(error, options) {
            Some(why) => unknown(format!("no TLS with {servers}: {why}")),
            None => unreachable(&format!("no TLS with {servers}: {error}")),
        };
    }
    let text = words(error);
    // What a server answers instead of a greeting, such as `Authentication Timeout`, the client has as text only.
    let about_us =
        ["authenticat", "authoriz"].iter().any(|word| text.to_lowercase().contains(word));
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            unknown(format!("{servers} does not accept {}", auth.words()))
        }
        _ if about_us => unknown(format!("{servers} does not accept {}: {text}", auth.words())),
        ConnectErrorKind::TimedOut => silent(options),
        _ => unreachable(&format!("no connection to {servers}: {text}")),
    }
}

/// Nobody said anything in time.
pub(super) fn silent(options: &NatsOptions) -> BrokerError {
    let hint = if options.tls_first {
        "; its TLS may begin after its greeting: leave out `tls_first`"
    } else {
        "; its TLS may begin before its greeting: set `tls_first`"
    };
    let servers = options.servers.join(", ");
    unreachable(&format!("no connection to {servers} within `connect_timeout`{hint}"))
}

fn unreachable(text: &str) -> BrokerError {
    BrokerError::new(BrokerErrorKind::Unreachable, text)
}

/// What is to be done about JetStream's error of this code, if it says that there is no room.
pub(super) fn without_room(code: u64, text: &str) -> Option<String> {
    let full = match code {
        // Resources of the account; of the server; memory; storage.
        10_002 | 10_023 | 10_028 | 10_047 => true,
        // It could not be stored, for a reason that the text gives.
        10_077 => ["no space left", "resource"].iter().any(|word| text.contains(word)),
        _ => false,
    };
    let fix = "free space on its disk, or raise the server's `max_file_store` or `max_memory_store`, or the account's limits";
    full.then(|| format!("the server has no room to store it ({text}): {fix}"))
}

/// Why one side does not trust the other; none if the other is not there, or speaks something else.
fn over_tls(error: &rustls::Error, options: &NatsOptions) -> Option<String> {
    use AlertDescription as Alert;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                let trusted = match &options.ca_file {
                    Some(_) => "by a certificate of `ca_file`",
                    None => "by one that this system trusts: give its issuer as `ca_file`",
                };
                format!("the server's certificate is not signed {trusted}")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the server's certificate is for another name: connect by a name that stands in it"
                    .into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the server's certificate is not valid yet: look at the clocks".into()
            }
            error => format!("the server's certificate is refused: {error}"),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "the server asks for a certificate of ours: give `client_cert` and `client_key`".into()
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::DecryptError),
        ) => match options.client_cert {
            Some(_) => format!("the server does not accept `client_cert`: {alert:?}"),
            None => format!(
                "the server refuses us ({alert:?}): if it asks for a certificate, give `client_cert` and `client_key`"
            ),
        },
        _ => return None,
    })
}

/// The error of this type that caused it, however deep.
fn within<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(found) = this.downcast_ref::<E>() {
            return Some(found);
        }
        // An `io::Error`'s own source is the source of what it wraps.
        let wrapped = this.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error = match wrapped {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => this.source(),
        };
    }
    None
}

/// An error and its causes in one line, without repetitions.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_that_does_not_trust_the_other_is_told_what_to_do() {
        let mut options = NatsOptions::default();
        let said = |error: rustls::Error, options: &NatsOptions| over_tls(&error, options);
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let asked = || rustls::Error::AlertReceived(AlertDescription::BadCertificate);
        assert!(said(unknown(), &options).is_some_and(|text| text.contains("give its issuer")));
        assert!(said(asked(), &options).is_some_and(|text| text.contains("give `client_cert`")));
        options.ca_file = Some("/ca".into());
        options.client_cert = Some("/cert".into());
        assert!(said(unknown(), &options).is_some_and(|text| text.contains("of `ca_file`")));
        assert!(said(asked(), &options).is_some_and(|text| text.contains("does not accept")));
        let expired = rustls::Error::InvalidCertificate(CertificateError::Expired);
        assert!(said(expired, &options).is_some_and(|text| text.contains("expired")));
        assert_eq!(said(rustls::Error::HandshakeNotComplete, &options), None);
    }

    #[test]
    fn no_room_is_told_with_what_to_do() {
        for (code, text) in [
            (10_023, "insufficient resources"),
            (10_047, "insufficient storage resources available"),
            (10_077, "write n1/store/1.blk: no space left on device"),
        ] {
            let said = without_room(code, text);
            assert!(
                said.is_some_and(|said| said.contains(text) && said.contains("max_file_store"))
            );
        }
        assert_eq!(without_room(10_077, "maximum messages exceeded"), None);
        assert_eq!(without_room(10_059, "stream not found"), None);
    }

    #[test]
    fn a_cause_is_found_however_deep() {
        let tls = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let deep = io::Error::other(io::Error::other(tls));
        assert!(within::<rustls::Error>(&deep).is_some());
        assert!(within::<rustls::Error>(&io::Error::other("else")).is_none());
        assert_eq!(words(&io::Error::other("why")), "why");
    }
}
