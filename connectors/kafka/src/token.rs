//! Bearer tokens: from a file that somebody keeps fresh, or from a command.

use std::{
    fs,
    io::Read as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::client::OAuthToken;
use serde_json::Value;

use crate::options::TokenFrom;

/// Where the token says nothing of its end, it is asked for again after this.
const LIFE: Duration = Duration::from_secs(300);

/// A token is far shorter.
const BYTES_MAX: u64 = 1 << 20;
/// A command whose output has ended is looked after so often.
const TURN: Duration = Duration::from_millis(10);

/// The token as it is now. Blocks as long as the command takes, and no longer than `limit`; called on a thread that may wait.
pub(crate) fn read(from: &TokenFrom, limit: Duration) -> Result<OAuthToken, String> {
    let text = match from {
        TokenFrom::File(path) => fs::read_to_string(path)
            .map_err(|error| format!("cannot read the token from `{}`: {error}", path.display()))?,
        TokenFrom::Command(words) => run(words, limit)?,
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

fn run(words: &[String], limit: Duration) -> Result<String, String> {
    let (program, arguments) = words.split_first().ok_or("the command for the token is empty")?;
    let failed = |error: std::io::Error| format!("cannot run `{program}` for the token: {error}");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let deadline = Instant::now() + limit;
    let mut child = command.spawn().map_err(failed)?;
    let (printed, output) = mpsc::channel();
    let stdout = child.stdout.take();
    // Ends with the command, or when nobody has its output any more.
    let reading = thread::Builder::new().name("kafka-token".to_owned()).spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(BYTES_MAX).read_to_end(&mut bytes));
        let _ = printed.send(read.map(|_| bytes));
    });
    let output = match reading {
        Ok(_) => output.recv_timeout(limit).ok(),
        Err(error) => Some(Err(error)),
    };
    let (Some(bytes), Some(status)) = (output, ended(&mut child, deadline).map_err(failed)?) else {
        // It may have ended by now.
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("`{program}` gave no token within {limit:?}"));
    };
    if !status.success() {
        return Err(format!("`{program}` gave no token: {status}"));
    }
    String::from_utf8(bytes.map_err(failed)?).map_err(|_| format!("`{program}` printed no text"))
}

/// Waits until a process has ended; `None` if it takes longer.
fn ended(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait()? {
            None if Instant::now() < deadline => thread::sleep(TURN),
            ended => return Ok(ended),
        }
    }
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

    fn command(words: &[&str]) -> TokenFrom {
        TokenFrom::Command(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn a_token_says_who_it_is_for_and_when_it_ends() {
        // {"alg":"none"} . {"sub":"alice","exp":2000000000}
        let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6MjAwMDAwMDAwMH0.";
        let said = read(&command(&["echo", token]), LIFE).unwrap();
        assert_eq!(
            (said.token.as_str(), said.principal_name.as_str(), said.lifetime_ms),
            (token, "alice", 2_000_000_000_000)
        );
        assert_eq!(read(&command(&["echo", "opaque"]), LIFE).unwrap().principal_name, "millstream");
        assert!(read(&command(&["false"]), LIFE).is_err());
        assert!(read(&TokenFrom::File("/nowhere".into()), LIFE).is_err());
    }

    #[test]
    fn a_command_that_does_not_end_is_ended() {
        for words in [&["sleep", "1000"][..], &["sh", "-c", "echo token; exec sleep 1000 >&-"]] {
            let Err(error) = read(&command(words), Duration::from_millis(200)) else { panic!("{words:?}") };
            assert!(error.contains("200ms"), "{error}");
        }
    }
}
