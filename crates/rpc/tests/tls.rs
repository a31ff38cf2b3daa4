//! Encryption: a client trusts the right authority, the node asks for certificates where it is told to, and plain text
//! stays at home.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, sync::Arc};

use common::{Setup, ask_digits, seven, start_with};
use hyperion_rpc::{
    client::{Client, ClientConfig},
    serve::{Listeners, Plaintext, ServeConfig, ServeError},
    tls::{Tls, TlsError, TlsFiles},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn files(folder: &Path, identity: &(String, String), client_ca: Option<&str>) -> TlsFiles {
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    TlsFiles {
        cert_file: put("cert.pem", &identity.0),
        key_file: put("key.pem", &identity.1),
        client_ca_file: client_ca.map(|pem| put("ca.pem", pem)),
    }
}

fn serving(tls: &Arc<Tls>) -> Setup {
    let setup = Setup::default();
    Setup { serve: ServeConfig { tls: Some(Arc::clone(tls)), ..setup.serve }, ..Setup::default() }
}

fn trusting(authority: &Authority) -> ClientConfig {
    ClientConfig { ca_pem: Some(authority.pem()), ..ClientConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_authority_is_served_and_others_are_not() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let tls = Arc::new(Tls::load(files(folder.path(), &ours.issue("localhost"), None)).unwrap());
    let node = start_with(serving(&tls)).await;
    let address = format!("https://localhost:{}", node.grpc.port());

    let mut client = Client::connect(&address, &trusting(&ours)).await.unwrap();
    client.inference.infer(ask_digits(seven())).await.unwrap();
    assert!(Client::connect(&address, &trusting(&theirs)).await.is_err(), "another authority");
    let plain = Client::connect(&address.replace("https", "http"), &ClientConfig::default()).await;
    if let Ok(mut plain) = plain {
        assert!(plain.inference.infer(ask_digits(seven())).await.is_err(), "plain text");
    }

    // A new certificate serves new connections, without a restart.
    files(folder.path(), &theirs.issue("localhost"), None);
    tls.reload().unwrap();
    Client::connect(&address, &trusting(&theirs)).await.unwrap();
    assert!(
        Client::connect(&address, &trusting(&ours)).await.is_err(),
        "the certificate is another now"
    );
    client.inference.infer(ask_digits(seven())).await.expect("a connection keeps what it has");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_asks_for_certificates_serves_nobody_without() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let pem = ours.pem();
    let tls = Tls::load(files(folder.path(), &ours.issue("localhost"), Some(&pem))).unwrap();
    let node = start_with(serving(&Arc::new(tls))).await;
    let address = format!("https://localhost:{}", node.grpc.port());

    let served = async |config: ClientConfig| match Client::connect(&address, &config).await {
        Ok(mut client) => client.inference.infer(ask_digits(seven())).await.is_ok(),
        Err(_) => false,
    };
    let identity = |authority: &Authority| ClientConfig {
        identity_pem: Some(authority.issue("a client")),
        ..trusting(&ours)
    };
    assert!(served(identity(&ours)).await);
    assert!(!served(identity(&theirs)).await, "a certificate of another authority");
    assert!(!served(trusting(&ours)).await, "no certificate");
}

#[test]
fn bad_files_are_refused_and_named() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    let good = authority.issue("localhost");
    let other = authority.issue("localhost");
    let refused = |identity: (&str, &str)| {
        let identity = (identity.0.to_owned(), identity.1.to_owned());
        Tls::load(files(folder.path(), &identity, None)).unwrap_err()
    };
    assert!(matches!(refused(("", &good.1)), TlsError::Empty(path) if path.ends_with("cert.pem")));
    assert!(
        matches!(refused((&good.0, "")), TlsError::File { path, .. } if path.ends_with("key.pem"))
    );
    assert!(matches!(refused((&good.0, &other.1)), TlsError::Identity(_)));
    let missing = TlsFiles {
        cert_file: folder.path().join("nowhere.pem"),
        key_file: folder.path().join("key.pem"),
        client_ca_file: None,
    };
    assert!(Tls::load(missing).unwrap_err().to_string().contains("nowhere.pem"));
}

#[tokio::test]
async fn plain_text_beyond_this_machine_has_to_be_wanted() {
    let anywhere = ServeConfig {
        grpc: "0.0.0.0:0".parse().unwrap(),
        http: "127.0.0.1:0".parse().unwrap(),
        ..ServeConfig::default()
    };
    let error = Listeners::bind(anywhere.clone()).await.unwrap_err();
    assert!(matches!(error, ServeError::Plaintext { surface: "grpc", .. }), "{error}");
    assert!(error.to_string().contains("tls.plaintext"), "{error}");
    let wanted = ServeConfig { plaintext: Plaintext::Anywhere, ..anywhere };
    Listeners::bind(wanted).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = ServeConfig { grpc: any, http: any, ..ServeConfig::default() };
    let first = Listeners::bind(config.clone()).await.unwrap();
    let error =
        Listeners::bind(ServeConfig { grpc: first.grpc_address(), ..config }).await.unwrap_err();
    assert!(matches!(error, ServeError::Bind { surface: "grpc", .. }), "{error}");
}
