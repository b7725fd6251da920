//! What the sink has prepared for an epoch, as the checkpoint keeps it.

use std::collections::BTreeMap;

use millstream_core::ShardKey;
use serde::{Deserialize, Serialize};

use crate::sink::token::FileToken;

/// How far the files count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SsToken {
    #[serde(flatten)]
    pub(super) files: FileToken,
    /// Last sequences of streams that have had records in earlier files and none yet in the one that is written: the
    /// earlier files may be deleted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) carried: BTreeMap<ShardKey, u64>,
}
