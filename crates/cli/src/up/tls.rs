//! Keys for the regions of `isthmus up`: one authority, and one certificate per region.
//!
//! What must hold: each certificate carries its region's name, is good for both ends of a
//! connection and is signed by the one authority; private keys are readable by their owner only.
//! What is there is kept, so that a region that still runs goes on being trusted.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use crate::error::CliError;
use crate::up::files::{at, write_private};

/// Makes what is missing of the authority and the regions' certificates.
pub(super) fn write(directory: &Path, names: &[String]) -> Result<(), CliError> {
    std::fs::create_dir_all(directory).map_err(|error| at(directory, &error))?;
    let certificate = directory.join("authority.pem");
    let key_file = directory.join("authority.key");
    let is_new = !(certificate.exists() && key_file.exists());
    if is_new {
        let key = KeyPair::generate().map_err(failed)?;
        let made = authority()?.self_signed(&key).map_err(failed)?;
        write_private(&key_file, &key.serialize_pem())?;
        write_private(&certificate, &made.pem())?;
    }
    let text = std::fs::read_to_string(&key_file).map_err(|error| at(&key_file, &error))?;
    let key = KeyPair::from_pem(&text).map_err(|error| {
        CliError::failed(format!("{}: {error}", key_file.display()))
            .hint("start with --fresh, or remove the folder with the keys")
    })?;
    let issuer = Issuer::new(authority()?, key);
    for name in names {
        let certificate = directory.join(format!("{name}.pem"));
        let key_file = directory.join(format!("{name}.key"));
        if !is_new && certificate.exists() && key_file.exists() {
            continue;
        }
        let key = KeyPair::generate().map_err(failed)?;
        let made = node(name)?.signed_by(&key, &issuer).map_err(failed)?;
        write_private(&key_file, &key.serialize_pem())?;
        write_private(&certificate, &made.pem())?;
    }
    Ok(())
}

/// Always the same, so that the authority can sign again from its key alone.
fn authority() -> Result<CertificateParams, CliError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.distinguished_name = named("isthmus up authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn node(name: &str) -> Result<CertificateParams, CliError> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn failed(error: rcgen::Error) -> CliError {
    CliError::failed(format!("keys cannot be made: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_and_kept_and_a_new_region_is_added() {
        let place = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        write(place.path(), &["r1".into()]).unwrap();
        let (authority, first) = (read("authority.pem"), read("r1.pem"));
        assert!(first.starts_with("-----BEGIN CERTIFICATE-----"));
        for key in ["authority.key", "r1.key"] {
            let mode = std::fs::metadata(place.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        write(place.path(), &["r1".into(), "r2".into()]).unwrap();
        assert_eq!((read("authority.pem"), read("r1.pem")), (authority, first));
        assert!(read("r2.pem").starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
