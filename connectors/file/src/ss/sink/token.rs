//! What the sink has prepared for an epoch, as the checkpoint keeps it.

use serde::{Deserialize, Serialize};

/// How far the file counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SsToken {
    /// Its name while it is written, in the folder of the sink's path.
    pub(super) name: String,
    /// The name that it gets at the end, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rename: Option<String>,
    /// Bytes that count.
    pub(super) length: u64,
    /// Hash of the last bytes before that: another file is not taken for it.
    pub(super) proof: u64,
    /// No more bytes will come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) done: bool,
}
