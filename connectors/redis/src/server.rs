//! Which servers, who we are, and which streams: what a URL and the options beside it say.

use std::{fmt, sync::Arc, time::Duration};

use millstream_core::{Error, ErrorKind, Result, Secret, Span, Url};
use serde_json::{Map, Value};

use crate::options::{Auth, Names, RedisSinkOptions, RedisSourceOptions, Tls};

/// The port of a node that names none.
const PORT: u16 = 6379;

/// Where the servers are and how to talk to them. Shown as a URL without its password.
#[derive(Clone)]
pub(crate) struct Server {
    /// `host:port` of each node.
    pub(crate) nodes: Vec<Arc<str>>,
    pub(crate) auth: Option<Auth>,
    pub(crate) db: u32,
    /// Absent: no TLS.
    pub(crate) tls: Option<Tls>,
    pub(crate) timeout: Duration,
    shown: Arc<str>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Options from a URL: what stands behind the `?`, user and password as `auth`, streams as `stream`, the rest as `url`.
pub(crate) fn from_url(url: &Url) -> Result<Value> {
    let mut options = url.options(&[])?;
    let text = format!("{}://{}", url.scheme, url.nodes.join(","));
    options.insert("url".to_owned(), Value::String(text));
    if let Some(password) = &url.password {
        let mut auth = Map::new();
        auth.extend(url.user.clone().map(|user| ("user".to_owned(), Value::String(user))));
        auth.insert("password".to_owned(), Value::String(password.expose().clone()));
        set(&mut options, "auth", Value::Object(auth))?;
    } else if url.user.is_some() {
        return Err(wrong("the URL has a user and no password", "write `redis://user:password@node/stream`"));
    }
    if url.path.len() > 1 {
        return Err(wrong(
            format!("the path of `{url}` has more than one part"),
            "write `redis://node/stream`, a slash in a stream's name as `%2F`, and a database as `?db=2`",
        ));
    }
    let mut streams: Vec<Value> = url.streams(0)?.into_iter().map(Value::String).collect();
    match streams.as_mut_slice() {
        [] => {}
        // A text is split at its commas later.
        [Value::String(only)] if !only.contains(',') => {
            set(&mut options, "stream", Value::String(std::mem::take(only)))?;
        }
        _ => set(&mut options, "stream", Value::Array(streams))?,
    }
    Ok(Value::Object(options))
}

/// The options as written, with what their `url` says spelled out.
pub(crate) fn spelled_out(options: &Value) -> Result<Value> {
    let written = options.as_object().and_then(|options| Some((options, options.get("url")?.as_str()?)));
    let Some((options, url)) = written else { return Ok(options.clone()) };
    let url = Url::parse(url).map_err(|error| error.within("url"))?;
    if !["redis", "rediss"].contains(&url.scheme.as_str()) {
        return Err(wrong(format!("`{url}` is no URL of Redis"), "write `redis://node/stream`, or `rediss:` for TLS"));
    }
    let Value::Object(mut all) = from_url(&url).map_err(|error| error.within("url"))? else { return Ok(Value::Null) };
    for (name, value) in options.iter().filter(|(name, _)| *name != "url") {
        set(&mut all, name, value.clone())?;
    }
    Ok(Value::Object(all))
}

fn set(options: &mut Map<String, Value>, name: &str, value: Value) -> Result<()> {
    match options.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::Option, format!("`{name}` is given twice: in the URL and as an option"))
            .hint("say it once")
            .within(name)),
    }
}

fn wrong(message: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::Option, message).hint(hint).within("url")
}

impl Server {
    pub(crate) fn of_source(options: &RedisSourceOptions) -> Result<Self> {
        Server::new(&options.url, options.auth.as_ref(), options.db, options.tls.as_ref(), options.timeout)
    }

    pub(crate) fn of_sink(options: &RedisSinkOptions) -> Result<Self> {
        Server::new(&options.url, options.auth.as_ref(), options.db, options.tls.as_ref(), options.timeout)
    }

    /// Whether it is a cluster, as far as one can know without asking.
    pub(crate) fn is_cluster(&self) -> bool {
        self.nodes.len() > 1
    }

    /// The system whose transactions can take in what happens in keys of this slot: one database, or one slot of a cluster.
    /// Nothing where keys lie in several slots.
    pub(crate) fn transaction(&self, slot: Option<u16>) -> Option<String> {
        match self.nodes.as_slice() {
            [node] => Some(format!("redis://{node}/{}", self.db)),
            nodes => {
                let mut nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
                nodes.sort_unstable();
                slot.map(|slot| format!("slot {slot} of redis://{}", nodes.join(",")))
            }
        }
    }

    fn new(
        url: &Secret<String>,
        auth: Option<&Auth>,
        db: Option<u32>,
        tls: Option<&Tls>,
        timeout: Span,
    ) -> Result<Self> {
        let url = Url::parse(url.expose()).map_err(|error| error.within("url"))?;
        let secure = url.scheme == "rediss";
        if tls.is_some() && !secure {
            let error = Error::new(ErrorKind::Option, "`tls` needs a connection with TLS");
            return Err(error.hint("write the URL with `rediss://`").within("tls"));
        }
        if tls.is_some_and(|tls| tls.cert.is_some() != tls.key.is_some()) {
            let error = Error::new(ErrorKind::Option, "a certificate needs its key, and a key its certificate");
            return Err(error.hint("give both `cert` and `key`").within("cert").within("tls"));
        }
        let nodes: Vec<Arc<str>> = url.nodes.iter().map(|node| address(node)).collect::<Result<_>>()?;
        if nodes.is_empty() {
            return Err(wrong("the URL names no server", "write `redis://localhost:6379/stream`"));
        }
        if nodes.len() > 1 && db.is_some_and(|db| db != 0) {
            let error = Error::new(ErrorKind::Option, "a cluster has no databases but 0");
            return Err(error.hint("leave `db` out, or name one node").within("db"));
        }
        let login = match auth {
            Some(Auth { user, .. }) => format!("{}:***@", user.as_deref().unwrap_or_default()),
            None => String::new(),
        };
        let shown = format!("{}://{login}{}", url.scheme, nodes.join(","));
        Ok(Server {
            nodes,
            auth: auth.cloned(),
            db: db.unwrap_or_default(),
            tls: secure.then(|| tls.cloned().unwrap_or_default()),
            timeout: timeout.0,
            shown: shown.into(),
        })
    }
}

/// `host:port` of a node as written.
fn address(node: &str) -> Result<Arc<str>> {
    let port = match node.rsplit_once(':') {
        // A colon within brackets is part of an address of version 6.
        Some((_, port)) if !port.contains(']') => Some(port),
        _ => None,
    };
    match port {
        None => Ok(format!("{node}:{PORT}").into()),
        Some(port) if port.parse::<u16>().is_ok() => Ok(node.into()),
        Some(port) => Err(wrong(format!("`{port}` is no port"), "write `redis://host:6379/stream`")),
    }
}

/// The streams that a source reads.
pub(crate) fn streams(names: Option<&Names>) -> Result<Vec<String>> {
    let names: Vec<String> = match names {
        Some(Names::One(name)) => name.split(',').map(str::to_owned).collect(),
        Some(Names::Many(names)) => names.clone(),
        None => Vec::new(),
    };
    let missing = |message: &str| {
        let error = Error::new(ErrorKind::Option, message);
        Err(error.hint("write `redis://node/stream`, or the option `stream`").within("stream"))
    };
    if names.is_empty() {
        return missing("no stream is named");
    }
    if names.iter().any(String::is_empty) {
        return missing("the name of a stream is empty");
    }
    for (i, name) in names.iter().enumerate() {
        if names.iter().take(i).any(|other| other == name) {
            return missing(&format!("the stream `{name}` is named twice"));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_url_becomes_options() {
        let url = Url::parse("rediss://me:p%40ss@a:1,b/x%2Cy,z?db=0&group=g&batch.count=10").unwrap();
        assert_eq!(
            from_url(&url).unwrap(),
            json!({"db": "0", "group": "g", "batch": {"count": "10"}, "url": "rediss://a:1,b",
                "auth": {"user": "me", "password": "p@ss"}, "stream": ["x,y", "z"]})
        );
        for text in ["redis://h/2/k", "redis://me@h/k", "redis://h/k?stream=j"] {
            assert_eq!(from_url(&Url::parse(text).unwrap()).unwrap_err().kind(), ErrorKind::Option, "{text}");
        }
    }

    #[test]
    fn options_may_stand_in_the_url_of_a_file_too() {
        let spelled = spelled_out(&json!({"url": "redis://:pw@h/k?db=2", "group": "g"})).unwrap();
        let expected = json!({"db": "2", "url": "redis://h", "auth": {"password": "pw"}, "stream": "k", "group": "g"});
        assert_eq!(spelled, expected);
        let error = spelled_out(&json!({"url": "redis://h/k?db=2", "db": 3})).unwrap_err();
        assert_eq!(error.place().unwrap().path, ["db"]);
        assert!(spelled_out(&json!({"url": "http://h/k"})).is_err());
    }

    #[test]
    fn a_node_without_a_port_has_the_usual_one() {
        let all = ["h", "h:1", "[::1]", "[::1]:7"].map(|node| address(node).unwrap().to_string());
        assert_eq!(all, ["h:6379", "h:1", "[::1]:6379", "[::1]:7"]);
        assert!(address("h:x").is_err());
    }
}
