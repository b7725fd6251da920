//! What users write.

use std::time::Duration;

use millstream_codec::CodecOptions;
use millstream_core::{Error, ErrorKind, Result, Span, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the source `skeleton`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkeletonSourceOptions {
    /// The server: `skeleton://host:port`.
    pub url: String,
    /// What the values are. By default `bytes`.
    pub codec: Option<CodecOptions>,
    /// How long to wait for a connection.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

/// Options of the sink `skeleton`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkeletonSinkOptions {
    /// The server: `skeleton://host:port`.
    pub url: String,
    /// How long to wait for a connection.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

/// Longer than any healthy network takes, short enough for a person to wait.
fn timeout() -> Span {
    Span(Duration::from_secs(10))
}

/// The server's `host:port`; all that can be said of a URL without connecting.
pub(crate) fn address(url: &str) -> Result<String> {
    let wrong = |message: String| {
        Error::new(ErrorKind::Option, message).hint("write it as `skeleton://host:port`").within("url")
    };
    let parsed = Url::parse(url).map_err(|error| error.within("url"))?;
    match parsed.nodes.as_slice() {
        [node] if parsed.scheme == "skeleton" && node.contains(':') => Ok(node.clone()),
        _ => Err(wrong(format!("`{parsed}` does not name one server"))),
    }
}

/// Options from a `skeleton:` URL: what stands behind the `?`, and the rest as `url`.
pub(crate) fn from_url(url: &Url) -> Result<Value> {
    let mut options = url.options(&[])?;
    let mut server = url.clone();
    server.query.clear();
    options.insert("url".to_owned(), Value::String(server.to_string()));
    Ok(Value::Object(options))
}
