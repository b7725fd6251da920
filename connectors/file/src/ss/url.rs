//! URLs of stream files: `file:///path/to/x.ss/key[,key]`.
//!
//! The path ends at the first part that ends in `.ss`; what follows are streams, none means all. `?path=` and `?stream=` are
//! the explicit form, for paths that look otherwise.

use millstream_core::{Error, ErrorKind, Result, Url};
use serde_json::{Map, Value};

/// The options that a URL means as a source; `None` if it means no stream file.
pub(crate) fn source_from_url(url: &Url) -> Option<Result<Value>> {
    take_apart(url).map(|parts| {
        let (mut options, streams) = parts?;
        if !streams.is_empty() {
            options.insert("streams".into(), streams.into());
        }
        Ok(Value::Object(options))
    })
}

/// The options that a URL means as a sink; `None` if it means no stream file.
pub(crate) fn sink_from_url(url: &Url) -> Option<Result<Value>> {
    take_apart(url).map(|parts| {
        let (mut options, mut streams) = parts?;
        if streams.len() > 1 {
            return Err(Error::new(ErrorKind::Option, format!("`{url}` names {} streams to write to", streams.len()))
                .hint("name one, or none to keep the streams that records come from"));
        }
        if let Some(stream) = streams.pop() {
            options.insert("stream".into(), stream.into());
        }
        Ok(Value::Object(options))
    })
}

type Parts = (Map<String, Value>, Vec<String>);

/// Options with the path, and the streams.
fn take_apart(url: &Url) -> Option<Result<Parts>> {
    let explicit = url.option("path").map(str::to_owned);
    let end = url.path.iter().position(|part| super::is_name(part));
    let codec = url.option("codec");
    let meant = match (codec, &explicit) {
        (Some(codec), _) => codec == "ss",
        (None, Some(path)) => super::is_name(path),
        (None, None) => end.is_some(),
    };
    meant.then(|| {
        // With an explicit path all parts of the URL's own path are streams; without a `.ss` in it none is.
        let parts = explicit.as_ref().map_or(end.map_or(url.path.len(), |end| end + 1), |_| 0);
        let path = match explicit {
            Some(path) => path,
            None => crate::location::path_of(url, parts)?,
        };
        let mut streams = Vec::new();
        for part in parts..url.path.len() {
            streams.extend(url.streams(part)?);
        }
        let listed = ["stream", "streams"].into_iter().filter_map(|name| url.option(name)).collect::<Vec<_>>();
        if !listed.is_empty() && !streams.is_empty() || listed.len() > 1 {
            return Err(Error::new(ErrorKind::Option, format!("`{url}` names streams twice"))
                .hint("write them behind the path or as `?stream=`"));
        }
        streams.extend(listed.into_iter().flat_map(|names| names.split(',')).filter(|n| !n.is_empty()).map(str::to_owned));
        let mut options = url.options(&["path", "stream", "streams"])?;
        options.insert("path".into(), path.into());
        Ok((options, streams))
    })
}
