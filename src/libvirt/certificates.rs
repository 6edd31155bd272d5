//! How long the certificates between us and a host are good.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::parse_x509_certificate;

use super::config::Credentials;

/// A handshake that takes longer is given up: the date is asked for again later.
const PATIENCE: Duration = Duration::from_secs(5);

/// When the certificates between us and a host end; absent: there is none, or its date isn't known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The one that we show.
    pub client: Option<Timestamp>,
    /// The one that host certificates must come from, or the first of them to end.
    pub authority: Option<Timestamp>,
    /// The one that the host shows.
    pub host: Option<Timestamp>,
}

/// Reads the dates in our credentials, and that of the host from a handshake.
pub(super) async fn read(credentials: &Credentials, addresses: &[SocketAddr]) -> Certificates {
    let Credentials::Tls { ca, certificate, key } = credentials else { return Certificates::default() };
    let host = shown_by_host(certificate, key, addresses).await;
    Certificates { client: first_end(certificate), authority: first_end(ca), host: host.as_deref().and_then(end) }
}

/// The end of the first certificate to end of a PEM file.
fn first_end(pem: &[u8]) -> Option<Timestamp> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).filter_map(|certificate| end(&certificate)).min()
}

fn end(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The certificate that the host shows. It isn't judged here: an expired one has a date as well, and libvirt judges it
/// on the connection over which anything is said.
async fn shown_by_host(certificate: &[u8], key: &[u8], addresses: &[SocketAddr]) -> Option<Vec<u8>> {
    let address = addresses.first()?;
    let witness = Arc::new(Witness { provider: ring::default_provider(), shown: Mutex::default() });
    let config = client(certificate, key, &witness)?;
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await
    };
    // However it ended: what was shown was shown.
    let _ = timeout(PATIENCE, handshake).await;
    witness.shown.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// With our certificate, so that the host's log has no complaint about us.
fn client(certificate: &[u8], key: &[u8], witness: &Arc<Witness>) -> Option<ClientConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate).filter_map(Result::ok).collect();
    let config = ClientConfig::builder_with_provider(Arc::new(witness.provider.clone()));
    let config = config.with_safe_default_protocol_versions().ok()?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::<Witness>::clone(witness));
    config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key).ok()?).ok()
}

/// Takes down what a host shows.
#[derive(Debug)]
struct Witness {
    provider: CryptoProvider,
    shown: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = Some(certificate.to_vec());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signed by itself, for nothing but its date.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcjCCARmgAwIBAgIUOKtIK9/EB9CgBGC/7EtOFzSOjvwwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAeFw0yNjExMjQwMDI0MTZaFw0zMzA5MDgwMDI0MTZa
MA8xDTALBgNVBAMMBHRlc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATgh9ni
fTqK5RNm1NDgdVIhowqXbWqSbsdjqTR1IdpiNOcyJpIFQdJn0gGBUy9A2eikSOSN
hSAbccNoEFAQcBVWo1MwUTAdBgNVHQ4EFgQUWA4/IJp7MsRKsVcpCepi+UTkTqgw
HwYDVR0jBBgwFoAUWA4/IJp7MsRKsVcpCepi+UTkTqgwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNHADBEAiA2oJANaFEkTRKIzU72ecXm5zD6/Y91fDTZALLy
lslPqwIgOmlbJ7g1u7dcjBT+HLZyRbDnuqZV1QRna8uvjmHZvgc=
-----END CERTIFICATE-----
";
    const CERTIFICATE_ENDS: i64 = 2_009_751_856;

    #[test]
    fn of_several_certificates_the_first_to_end_counts() {
        let ends = Timestamp::from_second(CERTIFICATE_ENDS).unwrap();
        assert_eq!(first_end(CERTIFICATE.as_bytes()), Some(ends));
        assert_eq!(first_end(&[CERTIFICATE, "-----BEGIN X-----\n", CERTIFICATE].concat().into_bytes()), Some(ends));
        for nothing in ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(first_end(nothing.as_bytes()), None, "{nothing}");
        }
    }

    #[tokio::test]
    async fn a_host_that_says_nothing_has_no_date() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let credentials = Credentials::Tls { ca: Vec::new(), certificate: Vec::new(), key: Vec::new() };
        assert_eq!(read(&credentials, &[silent.local_addr().unwrap()]).await, Certificates::default());
    }
}
