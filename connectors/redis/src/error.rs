//! Errors of Redis and of the network as ours: the kind decides whether it is tried again, and who has to act.

use std::io;

use millstream_core::{Error, ErrorKind};

use crate::{resp::Malformed, server::Server};

/// What the server says, as an error: `cannot {what}: {text}`.
pub(crate) fn refused(what: &str, server: &Server, text: &str) -> Error {
    // Who does not know a command repeats its words: those of `AUTH` are a secret, and others are somebody's data.
    let text = text.split_once(", with args").map_or(text, |(said, _)| said);
    let (kind, hint) = meaning(text);
    let error = Error::new(kind, format!("cannot {what} at {server}: {text}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// What the first word of a server's error means.
fn meaning(text: &str) -> (ErrorKind, Option<&'static str>) {
    let word = text.split(' ').next().unwrap_or_default();
    match word {
        "NOAUTH" => {
            (ErrorKind::Permission, Some("the server wants a password: `redis://user:password@node/stream`, or `auth`"))
        }
        "WRONGPASS" => (ErrorKind::Permission, Some("check user and password")),
        "NOPERM" => {
            (ErrorKind::Permission, Some("give the user the right to this command and key, with `ACL SETUSER`"))
        }
        "WRONGTYPE" => (ErrorKind::Rejected, Some("the key holds something other than a stream; use another name")),
        "OOM" => (
            ErrorKind::Unavailable,
            Some("the server has reached its `maxmemory`: give it more, or `trim` the streams"),
        ),
        "LOADING" => (ErrorKind::Unavailable, Some("the server reads its data; it is tried again")),
        "READONLY" => {
            (ErrorKind::Unavailable, Some("the server is a replica: name the master, or wait until it is one"))
        }
        "MISCONF" => (ErrorKind::Unavailable, Some("the server cannot write its disk; see its log")),
        "NOREPLICAS" => (ErrorKind::Unavailable, Some("too few replicas are connected for `min-replicas-to-write`")),
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "MOVED" | "ASK" | "UNBLOCKED" => {
            (ErrorKind::Unavailable, Some("the servers are not ready; it is tried again"))
        }
        "NOGROUP" => (ErrorKind::Unavailable, Some("the group was deleted; it is made again")),
        "CROSSSLOT" => (ErrorKind::Bug, None),
        _ if text.contains("invalid password") => (ErrorKind::Permission, Some("check user and password")),
        _ if text.contains("max number of clients") => {
            (ErrorKind::Unavailable, Some("raise the server's `maxclients`"))
        }
        _ if text.contains("unknown command") => {
            (ErrorKind::Unsupported, Some("Redis 6.2 or newer is needed, or the command was renamed away"))
        }
        _ if is_passed(text) => (
            ErrorKind::Rejected,
            Some("the record's time is before that of the newest entry; `ids: auto` uses the server's clock"),
        ),
        _ if is_too_long(text) || text.contains("too large to be stored") => {
            (ErrorKind::TooLarge, Some("split the record, or raise `proto-max-bulk-len` of the server"))
        }
        _ if text.contains("DB index is out of range") => (ErrorKind::Option, Some("check the option `db`")),
        _ => (ErrorKind::Rejected, None),
    }
}

/// Whether a server's error is about the server, and not about the command it answers.
pub(crate) fn is_of_server(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "NOAUTH", "MISCONF"].contains(&word)
}

/// Whether a word of the command is longer than the server takes.
pub(crate) fn is_too_long(text: &str) -> bool {
    text.contains("invalid bulk length")
}

/// Whether the stream has newer entries than the id of the one that is refused.
pub(crate) fn is_passed(text: &str) -> bool {
    text.contains("equal or smaller than the target stream top item")
}

/// The network failed: `cannot {what} {node}`.
pub(crate) fn broken(what: &str, node: &str, server: &Server, cause: io::Error) -> Error {
    let message = format!("cannot {what} `{node}` of {server}");
    if let Some(error) = of_tls(&message, &cause) {
        return error.caused_by(cause);
    }
    let hint = match cause.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            if server.tls.is_some() {
                "the server has closed the connection; if it does not speak TLS, write `redis://`"
            } else {
                "the server has closed the connection; if it speaks TLS, write `rediss://`"
            }
        }
        _ => "check that the server runs, and that it can be reached from here",
    };
    Error::new(ErrorKind::Unavailable, message).caused_by(cause).hint(hint)
}

fn of_tls(message: &str, cause: &io::Error) -> Option<Error> {
    let tls = cause.get_ref()?.downcast_ref::<rustls::Error>()?;
    let hint = match tls {
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS on this port; write `redis://`",
        rustls::Error::InvalidCertificate(_) => {
            "its certificate is not trusted: name its authority with `tls.ca`, or its name with `tls.server_name`"
        }
        rustls::Error::AlertReceived(_) => {
            "the server refused our side: it may want a certificate (`tls.cert`, `tls.key`)"
        }
        _ => return None,
    };
    Some(Error::new(ErrorKind::Option, message).hint(hint))
}

/// What came is no reply of Redis.
pub(crate) fn malformed(node: &str, server: &Server, why: Malformed) -> Error {
    let message = format!("cannot understand `{node}` of {server}");
    match why {
        // The first byte of an alert or a handshake of TLS.
        Malformed::Kind(0x15 | 0x16) => {
            Error::new(ErrorKind::Option, message).hint("the server speaks TLS on this port; write `rediss://`")
        }
        Malformed::TooLarge => Error::new(ErrorKind::TooLarge, format!("{message}: an answer is too large")),
        Malformed::Kind(_) | Malformed::Length => {
            Error::new(ErrorKind::Option, message).hint("what listens there is no Redis; check host and port")
        }
    }
}

/// Something took longer than allowed.
pub(crate) fn too_slow(what: &str, node: &str, server: &Server) -> Error {
    let hint = if server.tls.is_some() {
        "check the network and the server, and that it speaks TLS on this port; `timeout` allows more"
    } else {
        "check the network and the server; `timeout` allows more"
    };
    Error::new(ErrorKind::Timeout, format!("cannot {what} `{node}` of {server} in time")).hint(hint)
}

/// A reply that does not have the shape that its command promises.
pub(crate) fn unexpected(what: &str, server: &Server) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cannot {what} at {server}: the answer has an unknown shape"))
        .hint("Redis 6.2 or newer is needed")
}

/// A call that the contract forbids: nothing is open.
pub(crate) fn not_open() -> Error {
    Error::new(ErrorKind::Closed, "the stream is not open")
}
