//! URLs of streams: `scheme://[user:pass@]node[,node...]/[path/]stream[,stream...][?option=value]`.
//!
//! Not RFC 3986 to the letter: there may be several nodes, and a bare `stdio:` or `drop:` is one too. Everything is
//! percent-decoded; the parts that a connector splits further (path segments, streams) are decoded after splitting.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::{Error, ErrorKind, Result, Secret};

/// What would end an option, its name or its value.
const IN_QUERY: &AsciiSet = &CONTROLS.add(b'%').add(b'&').add(b'=');

/// What would end a user's name.
const IN_USER: &AsciiSet = &CONTROLS.add(b'%').add(b':').add(b'@').add(b'/').add(b'?').add(b',');

/// A parsed URL. Shown with its password as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// What stands before the first colon, in lower case.
    pub scheme: String,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret<String>>,
    /// The nodes, as written: `host`, `host:port` or `[v6]:port`.
    pub nodes: Vec<String>,
    /// The path begins with a slash, or follows a node.
    pub rooted: bool,
    /// Path segments, decoded. A leading slash is none of them; an empty last one is kept out.
    pub path: Vec<String>,
    /// Path segments as written, for those that split them further.
    raw_path: Vec<String>,
    /// Options in order, decoded.
    pub query: Vec<(String, String)>,
}

impl Url {
    /// Reads a URL.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| {
            Error::new(ErrorKind::Syntax, what)
                .hint("write it as `scheme://node/stream?option=value`, for example `file:///data/x.ss` or `stdio:`")
        };
        let (scheme, rest) =
            text.split_once(':').ok_or_else(|| wrong(format!("`{}` is not a URL: it has no scheme", redact(text))))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
            return Err(wrong(format!("`{}` is not a URL: `{}` is no scheme", redact(text), redact(scheme))));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or((rest, ""), |at| rest.split_at(at)),
            None => ("", rest),
        };
        let (login, nodes) =
            authority.rsplit_once('@').map_or((None, authority), |(login, nodes)| (Some(login), nodes));
        let (user, password) = match login {
            Some(login) => {
                let (user, password) =
                    login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
                let user = Some(decode(user)?).filter(|user| !user.is_empty());
                (user, password.map(decode).transpose()?.map(Secret::new))
            }
            None => (None, None),
        };
        let raw_path: Vec<String> =
            path.trim_start_matches('/').split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "true"));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Url {
            scheme: scheme.to_ascii_lowercase(),
            user,
            password,
            nodes: nodes.split(',').filter(|node| !node.is_empty()).map(str::to_owned).collect(),
            rooted: path.starts_with('/'),
            path: raw_path.iter().map(|part| decode(part)).collect::<Result<_>>()?,
            raw_path,
            query: pairs,
        })
    }

    /// The streams that the path segment `segment` names: split at commas, then decoded.
    pub fn streams(&self, segment: usize) -> Result<Vec<String>> {
        let raw = self.raw_path.get(segment).map_or("", String::as_str);
        raw.split(',').filter(|name| !name.is_empty()).map(decode).collect()
    }

    /// The first `segments` parts of the path as a path of the file system: `file:///a/b` is `/a/b`; `file:a/b`, and
    /// `file://a/b` with its first part where others have a host, are relative.
    pub fn local_path(&self, segments: usize) -> String {
        let mut path = self.nodes.first().filter(|node| *node != "localhost").cloned().unwrap_or_default();
        for part in self.path.iter().take(segments) {
            if self.rooted || !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
        }
        path
    }

    /// The first value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The options as an object, for a component's options struct; dots in names nest (`batch.count=10`), repeats are an
    /// error. Names in `taken` are left out: the connector has read them itself.
    pub fn options(&self, taken: &[&str]) -> Result<serde_json::Map<String, serde_json::Value>> {
        let mut options = serde_json::Map::new();
        for (name, value) in self.query.iter().filter(|(name, _)| !taken.contains(&name.as_str())) {
            set_option(&mut options, name, value)?;
        }
        Ok(options)
    }
}

/// Sets the option `name` (dots nest) to a text, as `?name=value` and `-o NAME=VALUE` do.
pub fn set_option(options: &mut serde_json::Map<String, serde_json::Value>, name: &str, value: &str) -> Result<()> {
    let twice = || Error::new(ErrorKind::Option, format!("option `{name}` is given twice"));
    let (mut level, mut rest) = (options, name);
    while let Some((head, tail)) = rest.split_once('.') {
        let inner = level.entry(head).or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
        level = inner.as_object_mut().ok_or_else(twice)?;
        rest = tail;
    }
    match level.insert(rest.to_owned(), serde_json::Value::String(value.to_owned())) {
        None => Ok(()),
        Some(_) => Err(twice()),
    }
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_| Error::new(ErrorKind::Syntax, "a URL holds bytes that are no UTF-8").hint("percent-encode UTF-8"))
}

/// Hides what may be a password in a text that could not be parsed.
fn redact(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (scheme, Some(at)) => {
            let start = scheme.map_or(0, |scheme| scheme + 3).min(at);
            let login = &text[start..at];
            let shown = login.split_once(':').map_or(login.to_owned(), |(user, _)| format!("{user}:***"));
            format!("{}{shown}{}", &text[..start], &text[at..])
        }
        _ => text.to_owned(),
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.nodes.is_empty() || self.user.is_some() || self.rooted {
            f.write_str("//")?;
        }
        let user = utf8_percent_encode(self.user.as_deref().unwrap_or_default(), IN_USER);
        match (&self.user, &self.password) {
            (_, Some(_)) => write!(f, "{user}:***@")?,
            (Some(_), None) => write!(f, "{user}@")?,
            (None, None) => {}
        }
        f.write_str(&self.nodes.join(","))?;
        write!(f, "{}{}", if self.rooted { "/" } else { "" }, self.raw_path.join("/"))?;
        let hidden = |name: &str| ["password", "secret", "token"].iter().any(|part| name.contains(part));
        for (i, (name, value)) in self.query.iter().enumerate() {
            let value = if hidden(name) { "***" } else { value };
            let (name, value) = (utf8_percent_encode(name, IN_QUERY), utf8_percent_encode(value, IN_QUERY));
            write!(f, "{}{name}={value}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_url_is_taken_apart() {
        let url = Url::parse("kafka://me:s%40crt@a:9092,b:9093/x%20y,z?group=g&batch.count=10&flag").unwrap();
        assert_eq!(url.scheme, "kafka");
        assert_eq!(url.user.as_deref(), Some("me"));
        assert_eq!(url.password.as_ref().unwrap().expose(), "s@crt");
        assert_eq!(url.nodes, ["a:9092", "b:9093"]);
        assert_eq!(url.streams(0).unwrap(), ["x y", "z"]);
        let options = serde_json::Value::Object(url.options(&["flag"]).unwrap());
        assert_eq!(options, serde_json::json!({"group": "g", "batch": {"count": "10"}}));
        assert_eq!(url.to_string(), "kafka://me:***@a:9092,b:9093/x%20y,z?group=g&batch.count=10&flag=true");
    }

    #[test]
    fn what_is_shown_reads_as_the_same_url() {
        let text = "kafka://a%40b%2Fc@host/x?a%26b=1%3D2%26c%25&d=e";
        let url = Url::parse(text).unwrap();
        assert_eq!(Url::parse(&url.to_string()).unwrap(), url);
    }

    #[test]
    fn short_forms_work() {
        assert_eq!(Url::parse("stdio:").unwrap().path, Vec::<String>::new());
        assert_eq!(Url::parse("stdio:///a,b").unwrap().streams(0).unwrap(), ["a", "b"]);
        assert_eq!(Url::parse("file:///data/my%20file,1.ss/key").unwrap().path, ["data", "my file,1.ss", "key"]);
        for (text, path) in
            [("file:rel/x.txt", "rel/x.txt"), ("file:/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("file://./a", "./a")]
        {
            assert_eq!(Url::parse(text).unwrap().local_path(9), path);
        }
        assert_eq!(Url::parse("file:../a/b?x=1").unwrap().to_string(), "file:../a/b?x=1");
    }

    #[test]
    fn no_error_shows_a_password() {
        for text in ["1x://me:pass@host/x", "k://me:pass@host/%ff"] {
            let error = Url::parse(text).unwrap_err();
            assert!(!format!("{error:?}").contains("pass"), "{error:?}");
        }
    }
}
