//! What all lanes of a source share: how they read, and who they are in a group.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, OnMissing, Result};
use tokio::sync::Semaphore;

use super::{decode::Shape, lag::Backlog, ledger::Ledger};
use crate::{
    options::{Ack, Batch, GroupOptions},
    server::Server,
};

/// What all lanes of a source share.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) server: Arc<Server>,
    pub(super) shape: Shape,
    pub(super) batch: Batch,
    pub(super) member: Option<Member>,
    pub(super) until_end: bool,
    /// The pipeline keeps keyed state.
    pub(super) keyed: bool,
    pub(super) on_missing: OnMissing,
    pub(super) backlog: Backlog,
}

impl Reading {
    /// Whether Redis forgets what it hands to us at once.
    pub(super) fn forgets(&self) -> bool {
        self.member.as_ref().is_some_and(|member| !member.keeps())
    }

    /// Our part in a group that keeps what it hands to us; without one nobody can `what`.
    pub(super) fn keeper(&self, what: &str) -> Result<&Member> {
        self.member
            .as_ref()
            .filter(|member| member.keeps())
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("only a group with `ack: epoch` can {what}")))
    }
}

/// Our part in a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) group: GroupOptions,
    pub(super) name: String,
    pub(super) ledger: Ledger,
    /// One record that goes alone at a time.
    pub(super) gate: Arc<Semaphore>,
}

impl Member {
    /// Whether Redis keeps what it hands to us until we acknowledge it.
    pub(super) fn keeps(&self) -> bool {
        self.group.ack == Ack::Epoch
    }
}
