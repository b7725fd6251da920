//! `exactly_once`: what this sink has staged, and when it counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_core::{Epoch, Error, ErrorKind, Result, Share, Stamp, Token};
use serde::{Deserialize, Serialize};

use crate::{
    client::Router,
    error::not_open,
    exact::{self, Part, Prepared, Shared, SinkKeys, Staging},
    options::Wait,
};

/// What is staged in the current epoch.
#[derive(Debug, Default)]
pub(super) struct Staged {
    of: Option<SinkKeys>,
    /// The transaction of a host; without one epochs are committed in two phases.
    shared: Option<Arc<Shared>>,
    staging: Option<Staging>,
    /// Keys by slot.
    keys: BTreeMap<u16, BTreeSet<Vec<u8>>>,
    /// Slots with a list: where all records were refused there is none.
    landed: BTreeSet<u16>,
    /// Why nobody knows what is staged.
    spoiled: Option<Error>,
}

/// The token of an epoch.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    epoch: Epoch,
    #[serde(flatten)]
    prepared: Prepared,
}

impl Staged {
    pub(super) fn introduce(&mut self, name: &str, stamp: &Stamp) {
        self.of = Some(SinkKeys { store: stamp.store_id.clone(), sink: name.to_owned() });
    }

    pub(super) fn join(&mut self, share: &Share, wait: Option<Wait>) -> Result<()> {
        let shared: Arc<Shared> =
            share.clone().downcast().map_err(|_| Error::new(ErrorKind::Bug, "the host is not one of Redis"))?;
        shared.wait_for(wait);
        self.shared = Some(shared);
        Ok(())
    }

    fn keys_of(&self) -> Result<SinkKeys> {
        self.of.clone().ok_or_else(|| Error::new(ErrorKind::Bug, "the sink does not know its pipeline"))
    }

    /// Commits what the checkpoint names, and forgets all else that this sink ever staged.
    pub(super) async fn open(&mut self, router: &mut Router, resume: &[(Epoch, Token)], cluster: bool) -> Result<()> {
        for (_, token) in resume {
            self.commit(router, token).await?;
        }
        let of = self.keys_of()?;
        exact::sweep(router, &of).await?;
        self.staging = Some(Staging::new(of, crate::unique(), cluster));
        self.keys.clear();
        self.landed.clear();
        self.spoiled = None;
        Ok(())
    }

    pub(super) fn staging(&mut self) -> Result<&mut Staging> {
        self.staging.as_mut().ok_or_else(not_open)
    }

    /// Notes where staged entries will go.
    pub(super) fn note(&mut self, keys: Vec<(u16, Vec<u8>)>) -> Result<()> {
        for (slot, key) in keys {
            if let Some(shared) = &self.shared {
                let list = self.staging.as_mut().ok_or_else(not_open)?.list(slot).to_vec();
                shared.add(list, [key]);
            } else {
                self.keys.entry(slot).or_default().insert(key);
            }
        }
        Ok(())
    }

    /// A record is in the list of a slot.
    pub(super) fn landed(&mut self, slot: u16) {
        self.landed.insert(slot);
    }

    /// Nobody knows any more what is staged.
    pub(super) fn spoil(&mut self, error: &Error) {
        self.spoiled.get_or_insert_with(|| error.clone());
    }

    pub(super) fn spoiled(&self) -> bool {
        self.spoiled.is_some()
    }

    pub(super) fn check(&self) -> Result<()> {
        match &self.spoiled {
            Some(error) => Err(error.clone().context("cannot tell what has been staged; the epoch is played again")),
            None => Ok(()),
        }
    }

    /// The token of what is staged; none where a host takes it, or nothing is.
    pub(super) fn prepare(&mut self, epoch: Epoch) -> Result<Option<Token>> {
        self.check()?;
        let of = self.keys_of()?;
        let staging = self.staging.as_mut().ok_or_else(not_open)?;
        let mut parts = Vec::new();
        let landed = std::mem::take(&mut self.landed);
        for (slot, keys) in std::mem::take(&mut self.keys).into_iter().filter(|(slot, _)| landed.contains(slot)) {
            let list = String::from_utf8_lossy(staging.list(slot)).into_owned();
            parts.push(Part { list, streams: keys.into_iter().collect() });
        }
        staging.next();
        if parts.is_empty() {
            return Ok(None);
        }
        Token::new(&Saved { epoch, prepared: Prepared { of, parts } }).map(Some)
    }

    /// Makes an epoch count.
    pub(super) async fn commit(&self, router: &mut Router, token: &Token) -> Result<()> {
        let saved: Saved = token.read()?;
        exact::commit(router, &saved.prepared, saved.epoch).await
    }

    /// Forgets an epoch.
    pub(super) async fn abort(&self, router: &mut Router, token: &Token) -> Result<()> {
        exact::abort(router, &token.read::<Saved>()?.prepared).await
    }
}
