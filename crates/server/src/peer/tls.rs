//! Certificates between regions.
//!
//! Each region has a certificate of the common authority that bears its name. The other side is
//! believed to be a region only if the certificate it showed bears that region's name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};
use webpki::{EndEntityCert, KeyUsage};

/// Why the files for TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or may not be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// They are no PEM, or the key is not the certificate's.
    #[error("{}: {reason}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where certificate, key and authority are, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The region's certificate, and others between it and the authority's.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority's certificate, or several, any of which is believed.
    pub authority: PathBuf,
}

/// The bytes of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsBytes {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

/// What this region shows and whom it believes.
#[derive(Clone)]
pub struct PeerTls {
    bytes: TlsBytes,
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
}

impl TlsFiles {
    /// Reads them.
    pub fn read(&self) -> Result<TlsBytes, TlsError> {
        let read = |file: &Path| {
            std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
        };
        Ok(TlsBytes {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            authority: read(&self.authority)?,
        })
    }

    /// Makes use of what was read, if the parts fit each other.
    pub fn parse(&self, bytes: TlsBytes) -> Result<PeerTls, TlsError> {
        let unusable =
            |file: &Path, reason: String| TlsError::Unusable { file: file.to_owned(), reason };
        let certificates = |file: &Path, bytes: &[u8]| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            match all {
                Ok(all) if all.is_empty() => Err(unusable(file, "holds no certificate".to_owned())),
                Ok(all) => Ok(all),
                Err(error) => Err(unusable(file, error.to_string())),
            }
        };
        let chain = certificates(&self.certificate, &bytes.certificate)?;
        let authorities = certificates(&self.authority, &bytes.authority)?;
        let key = PrivateKeyDer::from_pem_slice(&bytes.key)
            .map_err(|error| unusable(&self.key, error.to_string()))?;
        let provider = rustls::crypto::ring::default_provider();
        let not_of_key = |error: rustls::Error| unusable(&self.key, error.to_string());
        let signer = provider.key_provider.load_private_key(key).map_err(not_of_key)?;
        rustls::sign::CertifiedKey::new(chain.clone(), signer)
            .keys_match()
            .map_err(|_| unusable(&self.key, "is not the key of the certificate".to_owned()))?;
        Ok(PeerTls { bytes, chain, authorities })
    }
}

impl PeerTls {
    /// The bytes that it was made of.
    pub fn bytes(&self) -> &TlsBytes {
        &self.bytes
    }

    /// Whether another region that believes the same authority would believe this one, so long
    /// after 1970: what is wrong, else.
    pub fn check(&self, region: &str, since_epoch: Duration) -> Result<(), String> {
        let Some((first, between)) = self.chain.split_first() else {
            return Err("there is no certificate".to_owned());
        };
        if !bears_name(&self.chain, region) {
            return Err(format!("the certificate does not bear the name {region}"));
        }
        let anchors: Result<Vec<_>, _> =
            self.authorities.iter().map(webpki::anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(|error| format!("the authority cannot be used: {error}"))?;
        let certificate = EndEntityCert::try_from(first)
            .map_err(|error| format!("the certificate cannot be used: {error}"))?;
        let now = UnixTime::since_unix_epoch(since_epoch);
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            certificate
                .verify_for_usage(
                    webpki::ALL_VERIFICATION_ALGS,
                    &anchors,
                    between,
                    now,
                    usage,
                    None,
                    None,
                )
                .map_err(|error| format!("the certificate would not be believed: {error}"))?;
        }
        Ok(())
    }

    /// For the side that accepts.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity()).client_ca_root(self.authority())
    }

    /// For the side that dials the region of that name.
    pub fn client(&self, region: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.identity())
            .ca_certificate(self.authority())
            .domain_name(region)
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.bytes.certificate, &self.bytes.key)
    }

    fn authority(&self) -> Certificate {
        Certificate::from_pem(&self.bytes.authority)
    }
}

/// Whether one of the certificates shown bears the region's name. That the authority signed it
/// was checked in the handshake.
pub fn bears_name(shown: &[CertificateDer<'_>], region: &str) -> bool {
    let Ok(name) = ServerName::try_from(region) else { return false };
    let Some(first) = shown.first() else { return false };
    EndEntityCert::try_from(first)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}
