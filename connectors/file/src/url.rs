//! Options from a `file:` URL.

use millstream_core::{Error, ErrorKind, Result, Url};
use serde_json::Value;

/// `file:///data/x.log` is `/data/x.log`; `file:x.log` and `file://./x.log` are relative.
pub(crate) fn options(url: &Url) -> Result<Value> {
    if url.user.is_some() || url.nodes.len() > 1 {
        return Err(Error::new(ErrorKind::Syntax, "a file URL has no user and no host")
            .hint("write `file:///absolute/path` or `file://./relative/path`"));
    }
    let path = url.local_path(url.path.len());
    let mut options = url.options(&[])?;
    if options.insert("path".into(), Value::String(path)).is_some() {
        return Err(Error::new(ErrorKind::Option, "a file URL names its path before the `?`").within("path"));
    }
    Ok(Value::Object(options))
}
