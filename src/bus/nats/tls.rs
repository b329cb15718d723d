//! TLS, with a provider that is named: it works whatever other providers a program has built in.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::error::ConfigError;
use crate::sync::Arc;

/// Whom we trust, and what we show. The client library reads the system's certificates at every connect over TLS as
/// well, and refuses to connect if they cannot be read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Files<'a> {
    /// Instead of the system's certificates.
    pub(super) ca: Option<&'a PathBuf>,
    pub(super) cert: Option<&'a PathBuf>,
    pub(super) key: Option<&'a PathBuf>,
}

impl Files<'_> {
    /// Reads them. Also where TLS is not asked for: a server may ask for it.
    pub(super) fn config(self) -> Result<ClientConfig, ConfigError> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| ConfigError::invalid("tls", "on", "a provider of TLS 1.2 or 1.3"))?
            .with_root_certificates(self.roots()?);
        match (self.cert, self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates("client_cert", cert)?;
                let refuse =
                    |what| ConfigError::invalid("client_key", &key.to_string_lossy(), what);
                let read = PrivateKeyDer::from_pem_file(key)
                    .map_err(|_| refuse("a readable PEM file with an unencrypted private key"))?;
                builder
                    .with_client_auth_cert(chain, read)
                    .map_err(|_| refuse("the private key of `client_cert`"))
            }
            (None, None) => Ok(builder.with_no_client_auth()),
            (cert, _) => {
                let (given, missing) = match cert {
                    Some(_) => ("client_cert", "given together with `client_key`"),
                    None => ("client_key", "given together with `client_cert`"),
                };
                Err(ConfigError::out_of_range(given, "given", missing))
            }
        }
    }

    /// A system without certificates, or with broken ones, has fewer: a connect then says whom it does not trust.
    fn roots(self) -> Result<RootCertStore, ConfigError> {
        let mut roots = RootCertStore::empty();
        let Some(ca) = self.ca else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        };
        for certificate in certificates("ca_file", ca)? {
            roots.add(certificate).map_err(|_| no_certificates("ca_file", ca))?;
        }
        Ok(roots)
    }
}

fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let refused = || no_certificates(option, path);
    let read = CertificateDer::pem_file_iter(path).map_err(|_| refused())?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|_| refused())?;
    if read.is_empty() { Err(refused()) } else { Ok(read) }
}

fn no_certificates(option: &'static str, path: &Path) -> ConfigError {
    ConfigError::invalid(option, &path.to_string_lossy(), "a readable PEM file with certificates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_refused_by_name() {
        let nowhere = PathBuf::from("/nowhere/at/all");
        let none = PathBuf::from("/dev/null");
        let some = Some(&nowhere);
        for (files, told) in [
            (Files { ca: some, ..Files::default() }, "`ca_file` is \"/nowhere/at/all\""),
            (Files { ca: Some(&none), ..Files::default() }, "`ca_file`"),
            (Files { cert: some, key: some, ..Files::default() }, "`client_cert`"),
            (Files { cert: some, ..Files::default() }, "together with `client_key`"),
            (Files { key: some, ..Files::default() }, "together with `client_cert`"),
        ] {
            let Err(error) = files.config().map(|_| panic!("{files:?}"));
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(Files::default().config().is_ok());
    }
}
