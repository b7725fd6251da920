//! Systems that are asked something, instead of read or written by a pipeline.

use millstream::{
    core::{Error, ErrorKind, Result, Role},
    registry,
};
use serde_json::Value;

use crate::stream::Endpoint;

/// The options that a URL and `-o NAME=VALUE` come to, which must be those of the component `kind`.
pub(crate) fn options(kind: &str, example: &str, url: &str, pairs: &[String]) -> Result<Value> {
    let registry = registry();
    let mut endpoint = Endpoint::new(Role::Source, url, &registry)?;
    if endpoint.kind != kind {
        let message = format!("`{}` is a URL of `{}`, not of `{kind}`", endpoint.shown, endpoint.kind);
        return Err(Error::new(ErrorKind::Option, message).hint(format!("write it as `{example}`")));
    }
    endpoint.set_all(pairs)?;
    Ok(Value::Object(endpoint.options))
}

/// Waits for an answer.
pub(crate) fn wait<T>(asked: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the runtime", error))?;
    let answer = runtime.block_on(asked);
    // A client that takes long to close is nobody's concern any more.
    runtime.shutdown_background();
    Ok(answer)
}

/// A number that may not be known.
pub(crate) fn or_unknown(number: Option<u64>) -> String {
    number.map_or("?".to_owned(), crate::count::thousands)
}
