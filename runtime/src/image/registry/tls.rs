//! Whom to trust: the host's certificates and those its owner named.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A TLS configuration that trusts the host's certificates and those in `files`. The error says
/// which file cannot be used, or that there is nobody to trust.
pub(super) fn client_config<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for file in files {
        let failed = |error: &dyn std::fmt::Display| {
            format!("cannot read the CA certificates in {}: {error}", file.display())
        };
        let found: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|error| failed(&error));
        let found = found?;
        if found.is_empty() {
            return Err(failed(&"there is none in it"));
        }
        for certificate in found {
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
    }
    let native = rustls_native_certs::load_native_certs();
    // Hosts have certificates that no program understands; the others count.
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        let reason = native.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "this host has no CA certificates{reason}; install ca-certificates, or configure a CA for the registry"
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_no_certificate_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (absent, empty) = (dir.path().join("absent.pem"), dir.path().join("empty.pem"));
        std::fs::write(&empty, "no certificate\n").unwrap();
        for file in [absent, empty] {
            let error = client_config([&file].into_iter()).unwrap_err();
            assert!(error.contains(&file.display().to_string()), "{error}");
        }
    }
}
