//! TLS: rustls with the `ring` provider.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{error::broken, options::Tls, server::Server};

/// Shakes hands. Files are read each time: certificates are renewed while we run.
pub(super) async fn connect(
    options: &Tls,
    node: &str,
    server: &Server,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let files = options.clone();
    let config = tokio::task::spawn_blocking(move || config(&files)).await;
    let config =
        config.map_err(|cause| Error::new(ErrorKind::Bug, "reading certificates was stopped").caused_by(cause))?;
    let host = node.rsplit_once(':').map_or(node, |(host, _)| host).trim_matches(['[', ']']);
    let name = options.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned()).map_err(|cause| {
        let error = Error::new(ErrorKind::Option, format!("`{name}` cannot be the name of a certificate"));
        error.caused_by(cause).hint("give the name in the server's certificate").within("server_name").within("tls")
    })?;
    let connector = TlsConnector::from(Arc::new(config.map_err(|error| error.within("tls"))?));
    connector.connect(name, stream).await.map_err(|cause| broken("speak TLS with", node, server, cause))
}

fn config(options: &Tls) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|cause| Error::new(ErrorKind::Bug, "cannot set up TLS").caused_by(cause))?;
    let builder = builder.with_root_certificates(roots(options.ca.as_deref())?);
    let (Some(cert), Some(key)) = (&options.cert, &options.key) else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert).map_err(|error| error.within("cert"))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|cause| unreadable("private key", key).caused_by(cause).within("key"))?;
    builder.with_client_auth_cert(chain, key).map_err(|cause| {
        let error = Error::new(ErrorKind::Option, "`cert` and `key` do not belong together").caused_by(cause);
        error.hint("name the key of this certificate").within("key")
    })
}

fn roots(file: Option<&str>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match file {
        Some(file) => {
            store.add_parsable_certificates(certificates(file).map_err(|error| error.within("ca"))?);
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(Error::new(ErrorKind::Option, "there is no authority to trust")
            .hint("name a file with the authority's certificate")
            .within("ca"));
    }
    Ok(store)
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    all.map_err(|cause| unreadable("certificate", file).caused_by(cause))
}

fn unreadable(what: &str, file: &str) -> Error {
    Error::new(ErrorKind::Option, format!("cannot read a {what} from `{file}`")).hint("name a file in PEM format")
}
