//! From one file of a series to the next.
//!
//! ```text
//!   x-1.ss        finished: all of it counts. Left for good when it is read to its end and there is a later one
//!   x-2.ss.part   may be cut by its writer's recovery: never left, and ends a read that does not follow
//! ```

use std::sync::Arc;

use millstream_codec::ss::{HEADER_BYTES, Tail, find_end};
use millstream_core::{Error, ErrorKind, Result, ShardKey};

use super::{
    mark::LastSequences,
    messages::{Lane, Left},
    reading::{Item, Then, Until},
    scan::Scanner,
};
use crate::ss::{
    series::Member,
    view::{Opened, View, of},
};

/// What to do where a file has nothing more for now.
pub(super) enum Next {
    /// Look into it for the last time.
    LastLook,
    /// Another file is open, or is to be.
    File,
    Then(Then),
}

/// What has become of the file that is read.
enum Here {
    /// It is written.
    Open,
    Finished,
    Deleted,
    /// Another file has its name.
    Another,
}

impl Scanner {
    /// Goes on behind a file that has nothing more for now.
    pub(super) fn onward(
        &mut self,
        opened: &Opened,
        left: Left,
        last_look: bool,
        items: &mut Vec<Item>,
    ) -> Result<Next> {
        let Some(series) = &mut self.series else { return Ok(Next::Then(Then::End)) };
        let ended = self.ended || left == Left::EndOfStream;
        if !last_look && (!self.follow || ended || series.due()) && !series.look()? {
            return Ok(Next::Then(Then::More));
        }
        let here = match series.find(&self.file) {
            None => Here::Deleted,
            Some(member) if member.id != opened.id => Here::Another,
            Some(member) if member.open => Here::Open,
            Some(_) => Here::Finished,
        };
        let wait = if self.follow && !ended { Then::Wait } else { Then::End };
        match here {
            Here::Another | Here::Deleted if self.at <= HEADER_BYTES as u64 => {
                // Before anything of it was read.
                self.opened = None;
                return Ok(Next::File);
            }
            Here::Another => {
                let text = format!("`{}` is another file than the one that was read", self.file);
                return Err(Error::new(ErrorKind::StateMismatch, text).hint("seek to go on with what is there"));
            }
            Here::Open => return Ok(Next::Then(wait)),
            Here::Finished | Here::Deleted if !last_look => {
                self.finished = true;
                return Ok(Next::LastLook);
            }
            Here::Finished | Here::Deleted => {}
        }
        let stops_here = |until: &Until| until.file == self.file && until.offset.is_some();
        if self.until.as_ref().is_some_and(stops_here) {
            // More of it may have come since.
            return Ok(Next::Then(Then::End));
        }
        self.be_over(opened, items)?;
        if self.behind().next().is_none() {
            return Ok(Next::Then(wait));
        }
        if !self.begin_next(items)? {
            return Ok(Next::Then(if self.follow { Then::Wait } else { Then::End }));
        }
        let path = opened.path.display();
        if let Here::Deleted = here {
            tracing::warn!(%path, "the file was deleted; it had been read to its end");
        }
        Ok(Next::File)
    }

    /// The files behind the one that is read, or from the one of which nothing was read.
    fn behind(&self) -> impl Iterator<Item = &Member> {
        let unread = self.over.is_none() && self.opened.is_none();
        let members = self.series.iter().flat_map(move |series| series.behind(&self.file, unread));
        members.take_while(|member| self.until.as_ref().is_none_or(|until| member.name <= until.file))
    }

    /// Opens the next file, if it is there and something in it counts.
    pub(super) fn begin_next(&mut self, items: &mut Vec<Item>) -> Result<bool> {
        if self.opened.is_none()
            && let Some(series) = &mut self.series
            && !series.look()?
        {
            return Ok(false);
        }
        let mut found = None;
        for member in self.behind() {
            found = member.open()?;
            // A finished one that is gone just now, or too short for a header, has nothing to be waited for.
            if found.is_some() || member.open {
                break;
            }
        }
        let Some(opened) = found else {
            // Its header does not count yet; or it has been deleted.
            if let Some(series) = &mut self.series {
                series.look_again();
            }
            return Ok(false);
        };
        self.before = self.over.take().or(self.before.take());
        self.enter(opened);
        let mark = self.mark(None)?;
        items.push(Item { added: Vec::new(), read: None, mark });
        Ok(true)
    }

    /// Notes that all of a file was read and no more will come, so that it may be deleted.
    fn be_over(&mut self, opened: &Opened, items: &mut Vec<Item>) -> Result<()> {
        if self.over.is_some() && self.over_at == self.at {
            return Ok(());
        }
        let end = find_end(&View { file: &opened.file, len: self.end }).map_err(|error| of(&opened.path, error))?;
        if let Tail::Torn { offset } = end.tail {
            let path = opened.path.display();
            tracing::warn!(%path, offset, "the file ends in the middle of a record, which is left out");
        }
        let mut last: LastSequences = self.before.as_deref().cloned().unwrap_or_default();
        let asked = end.streams.into_iter().filter(|stream| self.reading.has(&stream.key));
        last.extend(asked.map(|stream| (ShardKey::new(stream.key, stream.shard), stream.sequence)));
        (self.over, self.over_at) = (Some(Arc::new(last)), self.at);
        let mark = self.mark(None)?;
        items.push(Item { added: Vec::new(), read: None, mark });
        Ok(())
    }

    /// Says what was lost before the first record of a shard in a file: files between were deleted.
    pub(super) fn check_gap(&self, lane: Lane, sequence: u64) {
        let (Some(before), Lane::Open(place) | Lane::Gated(place)) = (&self.before, lane) else { return };
        let Some(shard) = self.dictionary.get(place as usize) else { return };
        let Some(last) = before.get(shard).filter(|last| sequence > last.saturating_add(1)) else { return };
        let (path, lost) = (self.path().display(), sequence - last - 1);
        tracing::warn!(
            %path, %shard, lost, first = last + 1,
            "records were deleted before they were read: let the writer keep more files"
        );
    }

    /// Bytes of the files behind the one that is read.
    pub(super) fn later(&self) -> u64 {
        self.series.as_ref().map_or(0, |series| series.bytes_behind(&self.file))
    }
}
