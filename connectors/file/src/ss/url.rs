//! URLs of stream files: `file:///path/to/x.ss/key[,key]`.
//!
//! The path ends at the first part that ends in `.ss`; what follows are streams, none means all. `?path=` and `?stream=` are
//! the explicit form, for paths that look otherwise.

use millstream_core::{Error, ErrorKind, Result, Url};
use serde_json::{Map, Value};

/// The options that a URL means as a source; `None` if it means no stream file.
pub(super) fn source(url: &Url) -> Option<Result<Value>> {
    take_apart(url).map(|parts| {
        let (mut options, streams) = parts?;
        if !streams.is_empty() {
            options.insert("streams".into(), streams.into());
        }
        Ok(Value::Object(options))
    })
}

/// The options that a URL means as a sink; `None` if it means no stream file.
pub(super) fn sink(url: &Url) -> Option<Result<Value>> {
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
    // A relative path has its first part where others have a host: `file://x.ss/key`, `file://./x.ss`.
    let node = url.nodes.first().filter(|node| *node != "localhost");
    let found = url.path.iter().position(|part| super::is_name(part)).map(|at| at + 1);
    let end = if node.is_some_and(|node| super::is_name(node)) { Some(0) } else { found };
    let meant = match (url.option("codec"), &explicit) {
        (Some(codec), _) => codec == "ss",
        (None, Some(path)) => super::is_name(path),
        (None, None) => end.is_some(),
    };
    meant.then(|| {
        if url.user.is_some() || url.nodes.len() > 1 {
            return Err(Error::new(ErrorKind::Syntax, "a file URL has no user and no host")
                .hint("write `file:///absolute/path/x.ss/stream` or `file://./relative/x.ss/stream`"));
        }
        let (path, parts) = match explicit {
            // All parts of the URL's own path are streams then.
            Some(path) => (path, 0),
            None => {
                // Without a part that ends in `.ss` all of it is the path.
                let parts = end.unwrap_or(url.path.len());
                (url.local_path(parts), parts)
            }
        };
        Ok((options(url, path)?, streams(url, parts)?))
    })
}

fn options(url: &Url, path: String) -> Result<Map<String, Value>> {
    let mut options = url.options(&["path", "stream", "streams"])?;
    options.insert("path".into(), path.into());
    Ok(options)
}

/// The streams that the parts of the path from `part` on name, or an option.
fn streams(url: &Url, part: usize) -> Result<Vec<String>> {
    let mut streams = Vec::new();
    for part in part..url.path.len() {
        streams.extend(url.streams(part)?);
    }
    let listed: Vec<_> = ["stream", "streams"].into_iter().filter_map(|name| url.option(name)).collect();
    if listed.len() + usize::from(!streams.is_empty()) > 1 {
        return Err(Error::new(ErrorKind::Option, format!("`{url}` names streams twice"))
            .hint("write them behind the path, or as `?stream=`"));
    }
    streams
        .extend(listed.iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(|n| n.to_owned()));
    Ok(streams)
}

#[cfg(test)]
mod tests {
    use super::{super::url, *};
    use serde_json::json;

    fn source(text: &str) -> Value {
        url::source(&Url::parse(text).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn the_path_ends_at_the_first_part_that_ends_in_ss() {
        assert_eq!(source("file:///data/x.ss"), json!({"path": "/data/x.ss"}));
        assert_eq!(
            source("file:///d/x.ss/a,b%2Cc?follow"),
            json!({"path": "/d/x.ss", "streams": ["a", "b,c"], "follow": "true"})
        );
        assert_eq!(source("file:///my%20d%C3%A4ta,1.ss/a.ss"), json!({"path": "/my däta,1.ss", "streams": ["a.ss"]}));
        assert_eq!(source("file://x.ss/a"), json!({"path": "x.ss", "streams": ["a"]}));
        assert_eq!(source("file://./d/x.ss/a"), json!({"path": "./d/x.ss", "streams": ["a"]}));
        assert_eq!(source("file:x.ss/a"), json!({"path": "x.ss", "streams": ["a"]}));
        assert_eq!(source("file:d/x.ss/a"), json!({"path": "d/x.ss", "streams": ["a"]}));
        assert_eq!(source("file:?path=/x.ss&stream=a,b"), json!({"path": "/x.ss", "streams": ["a", "b"]}));
        assert_eq!(source("file:///d/x.bin?codec=ss"), json!({"path": "/d/x.bin", "codec": "ss"}));
        for other in ["file:///data/x.log", "file:///x.ss?codec=lines", "file:///.ss"] {
            assert!(url::source(&Url::parse(other).unwrap()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_sink_has_one_stream() {
        let sink = |text: &str| url::sink(&Url::parse(text).unwrap()).unwrap();
        assert_eq!(sink("file:///x.ss/a?shard=3").unwrap(), json!({"path": "/x.ss", "stream": "a", "shard": "3"}));
        assert_eq!(sink("file:///x.ss/a,b").unwrap_err().kind(), ErrorKind::Option);
        assert_eq!(sink("file:///x.ss/a?stream=b").unwrap_err().kind(), ErrorKind::Option);
    }
}
