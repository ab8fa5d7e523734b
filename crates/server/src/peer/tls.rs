//! Certificates between regions.
//!
//! Each region has a certificate of the common authority that bears its name. The other side is
//! believed to be a region only if the certificate it showed bears that region's name.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, ServerName};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Why the files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", file.display())]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What the system says.
    #[source]
    pub source: std::io::Error,
}

/// What this region shows and whom it believes.
#[derive(Clone)]
pub struct PeerTls {
    identity: Identity,
    authority: Certificate,
}

impl PeerTls {
    /// Reads the PEM files.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<PeerTls, TlsError> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|source| TlsError { file: file.to_owned(), source })
        };
        Ok(PeerTls {
            identity: Identity::from_pem(read(certificate)?, read(key)?),
            authority: Certificate::from_pem(read(authority)?),
        })
    }

    /// For the side that accepts.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity.clone())
            .client_ca_root(self.authority.clone())
    }

    /// For the side that dials the region of that name.
    pub fn client(&self, region: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity.clone())
            .ca_certificate(self.authority.clone())
            .domain_name(region)
    }
}

/// Whether one of the certificates shown bears the region's name. That the authority signed it
/// was checked in the handshake.
pub fn bears_name(shown: &[CertificateDer<'_>], region: &str) -> bool {
    let Ok(name) = ServerName::try_from(region) else { return false };
    let Some(first) = shown.first() else { return false };
    webpki::EndEntityCert::try_from(first)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}
