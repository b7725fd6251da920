//! Brokers, topics and user out of a `kafka:` URL.

use std::fmt;

use millstream_core::{Error, ErrorKind, Result, Secret, Span, Url};
use serde_json::Value;

use super::{KafkaAuth, KafkaTls, wrong};

/// What a URL says of a cluster and its topics.
#[derive(Clone)]
pub(crate) struct Address {
    /// The brokers, as librdkafka wants them.
    pub(crate) brokers: String,
    /// The topics.
    pub(crate) topics: Vec<String>,
    /// The scheme says TLS.
    pub(crate) tls: bool,
    /// User and password.
    pub(crate) login: Option<(String, Secret<String>)>,
    /// The URL for people, without its password.
    pub(crate) shown: String,
}

/// Kafka's own port.
const PORT: u16 = 9092;

impl Address {
    /// All that can be said of a URL without connecting.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text)?;
        let wrong = |message: String| {
            Error::new(ErrorKind::Option, message)
                .hint("write it as `kafka://host:9092[,host:9092...]/topic[,topic...]`")
        };
        let tls = match url.scheme.as_str() {
            "kafka" => false,
            "kafka+tls" => true,
            _ => return Err(wrong(format!("`{url}` does not name a Kafka cluster"))),
        };
        if url.nodes.is_empty() {
            return Err(wrong(format!("`{url}` names no broker")));
        }
        if url.path.len() > 1 || !url.query.is_empty() {
            return Err(wrong(format!("`{url}` has parts behind its topics")));
        }
        let topics = url.streams(0)?;
        if let Some(topic) = topics.iter().find(|topic| !is_topic(topic)) {
            return Err(wrong(format!("`{topic}` is no name of a topic")));
        }
        let login = match (&url.user, &url.password) {
            (Some(user), Some(password)) => Some((user.clone(), password.clone())),
            (None, None) => None,
            _ => return Err(wrong(format!("`{url}` has a user or a password, but not both"))),
        };
        let brokers: Vec<String> = url.nodes.iter().map(|node| with_port(node)).collect();
        Ok(Address { brokers: brokers.join(","), topics, tls, login, shown: url.to_string() })
    }

    /// Checks what the options say of the same things.
    pub(crate) fn validate(&self, tls: &Option<KafkaTls>, auth: &Option<KafkaAuth>, timeout: Span) -> Result<()> {
        if let Some(tls) = tls {
            tls.validate().map_err(|error| error.within("tls"))?;
        }
        self.auth(auth).map_or(Ok(()), |auth| auth.validate()).map_err(|error| error.within("auth"))?;
        if timeout.0.as_millis() < 100 || timeout.0.as_secs() > 3600 {
            return Err(wrong("timeout", "waiting takes from 100 ms to an hour", "write `8s`, say"));
        }
        Ok(())
    }

    /// The options, with user and password of the URL where they have none.
    pub(crate) fn auth(&self, options: &Option<KafkaAuth>) -> Option<KafkaAuth> {
        let mut auth = options.clone();
        if let Some((user, password)) = &self.login {
            let auth = auth.get_or_insert_default();
            auth.user.get_or_insert_with(|| user.clone());
            auth.password.get_or_insert_with(|| password.clone());
        }
        auth
    }

    /// The cluster without topics and password: what sinks must have in common to write in one transaction.
    pub(crate) fn cluster(&self) -> String {
        let mut brokers: Vec<&str> = self.brokers.split(',').collect();
        brokers.sort_unstable();
        let user = self.login.as_ref().map(|(user, _)| format!("{user}@")).unwrap_or_default();
        format!("{}://{user}{}", if self.tls { "kafka+tls" } else { "kafka" }, brokers.join(","))
    }
}

/// Shows no password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Kafka's own rule for names of topics.
pub(crate) fn is_topic(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 249 && name != "." && name != ".." && name.chars().all(legal)
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, with a port.
fn with_port(node: &str) -> String {
    let behind = node.rsplit_once(']').map_or(node, |(_, behind)| behind);
    if behind.contains(':') { node.to_owned() } else { format!("{node}:{PORT}") }
}

/// Options from a `kafka:` URL: what stands behind the `?`, the login as `auth`, and the rest as `url`.
pub(crate) fn from_url(url: &Url) -> Result<Value> {
    let mut options = url.options(&[])?;
    if let (Some(user), Some(password)) = (&url.user, &url.password) {
        let auth = options.entry("auth").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(auth) = auth.as_object_mut() {
            auth.entry("user").or_insert_with(|| Value::String(user.clone()));
            auth.entry("password").or_insert_with(|| Value::String(password.expose().clone()));
        }
    }
    let mut server = url.clone();
    server.query.clear();
    if server.password.is_some() {
        (server.user, server.password) = (None, None);
    }
    options.insert("url".to_owned(), Value::String(server.to_string()));
    Ok(Value::Object(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_brokers_topics_and_user() {
        let address = Address::parse("kafka://me:s%40crt@a,b:9093,[::1],[::1]:1/x.y,z").unwrap();
        assert_eq!(address.brokers, "a:9092,b:9093,[::1]:9092,[::1]:1");
        assert_eq!(address.topics, ["x.y", "z"]);
        assert_eq!(address.login.as_ref().unwrap().1.expose(), "s@crt");
        assert_eq!(address.shown, "kafka://me:***@a,b:9093,[::1],[::1]:1/x.y,z");
        assert_eq!(address.cluster(), "kafka://me@[::1]:1,[::1]:9092,a:9092,b:9093");
        assert!(Address::parse("kafka+tls://a/t").unwrap().tls);
        for text in ["kafka:", "kafka:///t", "redis://a/t", "kafka://a/t/u", "kafka://a/t%20u", "kafka://u@a/t"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_password_of_a_url_becomes_an_option() {
        let url = Url::parse("kafka://me:pass@a:1/t?start=end&property.socket.keepalive.enable=true").unwrap();
        let options = from_url(&url).unwrap();
        let expected = serde_json::json!({
            "start": "end", "property": {"socket": {"keepalive": {"enable": "true"}}},
            "auth": {"user": "me", "password": "pass"}, "url": "kafka://a:1/t",
        });
        assert_eq!(options, expected);
    }
}
