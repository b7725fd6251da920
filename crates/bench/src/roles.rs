//! Other programs that this binary can be: the children of some cases.

use anyhow::{Context as _, Result, bail};

/// The role that the arguments ask for, and its own arguments.
pub(crate) fn asked(arguments: &[String]) -> Option<(&str, &[String])> {
    match arguments {
        [flag, role, rest @ ..] if flag == "--role" => Some((role, rest)),
        _ => None,
    }
}

/// Plays it.
pub(crate) fn play(role: &str, arguments: &[String]) -> Result<()> {
    let count = arguments.first().context("how many?").and_then(|count| Ok(count.parse()?));
    match role {
        "line-produce" => crate::stdio::line_produce(),
        "line-relay" => crate::stdio::line_relay(),
        "line-consume" => crate::stdio::line_consume(),
        #[cfg(feature = "peers")]
        "sea-produce" => crate::peers::sea_stdio::produce(),
        #[cfg(feature = "peers")]
        "sea-relay" => crate::peers::sea_stdio::relay(count?),
        #[cfg(feature = "peers")]
        "sea-consume" => crate::peers::sea_stdio::consume(count?),
        "idle" => crate::idle::child(count?),
        _ => bail!("there is no role `{role}`"),
    }
}

/// How this program is started in a role.
pub(crate) fn command(role: &str) -> Result<std::process::Command> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--role", role]);
    Ok(command)
}
