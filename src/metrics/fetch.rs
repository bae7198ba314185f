//! Asks a running node's page, for the command line.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "no node answers at {address}: {error}. Is one running, with `metrics_port` set to this port? Name another with --metrics"
    )]
    NoNode { address: SocketAddr, error: std::io::Error },
    #[error("the node at {address} did not answer within {PATIENCE:?}")]
    Timeout { address: SocketAddr },
    #[error("{address} is not the metrics page of a RingMQ node: {reason}")]
    NotANode { address: SocketAddr, reason: String },
}

/// Gets what is at `path` of the node's page.
///
/// # Errors
/// See [`FetchError`].
pub fn get<T: DeserializeOwned>(address: SocketAddr, path: &'static str) -> Result<T, FetchError> {
    request(address, Method::GET, path)
}

/// Puts to `path` of the node's page, and gets what comes back.
///
/// # Errors
/// See [`FetchError`].
pub fn put<T: DeserializeOwned>(address: SocketAddr, path: &'static str) -> Result<T, FetchError> {
    request(address, Method::PUT, path)
}

fn request<T: DeserializeOwned>(
    address: SocketAddr,
    method: Method,
    path: &'static str,
) -> Result<T, FetchError> {
    let no_node = |error| FetchError::NoNode { address, error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(no_node)?;
    let answered = async {
        let stream = TcpStream::connect(address).await.map_err(no_node)?;
        let not_a_node = |reason: String| FetchError::NotANode { address, reason };
        exchange(stream, address, method, path).await.map_err(|error| not_a_node(error.to_string()))
    };
    let body = runtime
        .block_on(async { timeout(PATIENCE, answered).await })
        .map_err(|_| FetchError::Timeout { address })??;
    serde_json::from_slice(&body).map_err(|error| FetchError::NotANode { address, reason: error.to_string() })
}

async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    method: Method,
    path: &'static str,
) -> Result<axum::body::Bytes, Box<dyn std::error::Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(Uri::from_static(path))
        .header("host", address.to_string())
        .body(Body::empty())?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(format!("{path} is answered with {}", response.status()).into());
    }
    Ok(to_bytes(Body::new(response.into_body()), ANSWER_BYTES_MAX).await?)
}
