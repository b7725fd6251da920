//! Bearer tokens: from a file that somebody keeps fresh, or from a command.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::client::OAuthToken;
use serde_json::Value;

use crate::options::TokenFrom;

/// Where the token says nothing of its end, it is asked for again after this.
const LIFE: Duration = Duration::from_secs(300);

/// The token as it is now. Blocks as long as the command takes; called on a thread that may wait.
pub(crate) fn read(from: &TokenFrom) -> Result<OAuthToken, String> {
    let text = match from {
        TokenFrom::File(path) => fs::read_to_string(path)
            .map_err(|error| format!("cannot read the token from `{}`: {error}", path.display()))?,
        TokenFrom::Command(words) => run(words)?,
    };
    let token = text.trim().to_owned();
    if token.is_empty() || token.contains('\0') {
        return Err("the token is empty".to_owned());
    }
    let claims = claims(&token);
    let expires_at =
        claims.as_ref().and_then(|claims| claims.get("exp")?.as_f64()).map(|seconds| (seconds * 1e3) as i64);
    let principal_name =
        claims.as_ref().and_then(|claims| claims.get("sub")?.as_str()).unwrap_or("millstream").to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let lifetime_ms = expires_at.unwrap_or((now + LIFE).as_millis() as i64);
    Ok(OAuthToken { token, principal_name: principal_name.replace('\0', ""), lifetime_ms })
}

fn run(words: &[String]) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("the command for the token is empty")?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run `{program}` for the token: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{program}` gave no token: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("`{program}` printed no text"))
}

/// What a JWT says of itself; it is the broker who checks it.
fn claims(token: &str) -> Option<Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&base64url(payload)?).ok()
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut held, mut bytes) = (0u32, 0u32, Vec::with_capacity(text.len() * 3 / 4));
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_who_it_is_for_and_when_it_ends() {
        // {"alg":"none"} . {"sub":"alice","exp":2000000000}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6MjAwMDAwMDAwMH0.";
        let read = read(&TokenFrom::Command(vec!["echo".into(), token.into()])).unwrap();
        assert_eq!(
            (read.token.as_str(), read.principal_name.as_str(), read.lifetime_ms),
            (token, "alice", 2_000_000_000_000)
        );
        assert_eq!(
            super::read(&TokenFrom::Command(vec!["echo".into(), "opaque".into()])).unwrap().principal_name,
            "millstream"
        );
        assert!(super::read(&TokenFrom::Command(vec!["false".into()])).is_err());
        assert!(super::read(&TokenFrom::File("/nowhere".into())).is_err());
    }
}
