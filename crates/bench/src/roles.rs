//! Other programs that this binary can be: the children of some cases.

use anyhow::{Result, bail};

/// The role that the arguments ask for, and its own arguments.
pub(crate) fn asked(arguments: &[String]) -> Option<(&str, &[String])> {
    match arguments {
        [flag, role, rest @ ..] if flag == "--role" => Some((role, rest)),
        _ => None,
    }
}

/// Plays it.
pub(crate) fn play(role: &str, _arguments: &[String]) -> Result<()> {
    if role == "flow" {
        return crate::flow::profile(_arguments);
    }
    bail!("there is no role `{role}`")
}
