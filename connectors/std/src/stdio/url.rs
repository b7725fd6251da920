//! `stdio:`, `stdio:///a,b?headers=strict`.

use millstream_core::{Error, ErrorKind, Result, Url};
use serde_json::{Value, json};

/// Options of the source.
pub(super) fn source_options(url: &Url) -> Result<Value> {
    let streams = streams(url)?;
    let mut options = url.options(&[])?;
    if !streams.is_empty() && options.insert("streams".to_owned(), json!(streams)).is_some() {
        return Err(twice("streams"));
    }
    Ok(Value::Object(options))
}

/// Options of the sink.
pub(super) fn sink_options(url: &Url) -> Result<Value> {
    let streams = streams(url)?;
    let mut options = url.options(&[])?;
    match streams.as_slice() {
        [] => {}
        [stream] => {
            if options.insert("stream".to_owned(), json!(stream)).is_some() {
                return Err(twice("stream"));
            }
        }
        _ => {
            return Err(Error::new(ErrorKind::Option, format!("`{url}` names several streams to write to"))
                .hint("name one, or none: then each record keeps its own"));
        }
    }
    Ok(Value::Object(options))
}

fn streams(url: &Url) -> Result<Vec<String>> {
    if !url.nodes.is_empty() || url.path.len() > 1 {
        return Err(Error::new(ErrorKind::Option, format!("`{url}` has more than streams in it"))
            .hint("write `stdio:`, or `stdio:///a,b` with three slashes"));
    }
    url.streams(0)
}

fn twice(option: &str) -> Error {
    Error::new(ErrorKind::Option, format!("option `{option}` is given twice, in the path and behind `?`"))
}
