//! Where a seek leads. Everything here blocks.

use std::sync::Arc;

use millstream_codec::ss::{Asked, HEADER_BYTES, find_end, seek_sequence, seek_time};
use millstream_core::{Error, ErrorKind, Result, SeekTo, ShardKey};

use super::{
    mark::{Gate, Gates, Mark},
    reading::{Reading, Until},
    scan::Scanner,
};
use crate::{
    error::failed,
    ss::{
        series::Series,
        view::{Opened, View, of, proof},
    },
};

/// How far a file may be read now.
pub(super) fn end_of(opened: &Opened, until: Option<&Until>) -> Result<u64> {
    let (len, end) = opened.end()?;
    Ok(match until {
        Some(Until { file, offset: Some(offset) }) if *file == opened.name => (*offset).min(len),
        _ => end,
    })
}

/// The mark at a message boundary.
pub(super) fn stand(opened: &Opened, offset: u64, gates: Gates) -> Result<Mark> {
    let proof = proof(&opened.file, offset).map_err(|error| failed("read", &opened.path, error))?;
    let proof = proof.ok_or_else(|| {
        Error::new(ErrorKind::StateMismatch, format!("`{}` was cut while it was opened", opened.path.display()))
    })?;
    let (file, created_at) = (opened.name.clone(), opened.header.created_at_ms());
    Ok(Mark { file, offset, proof, created_at, gates: Arc::new(gates), over: None })
}

/// What the first record of each shard must reach.
pub(super) fn gate(to: &SeekTo) -> Gate {
    match to {
        SeekTo::Beginning | SeekTo::Committed | SeekTo::End => Gate::default(),
        SeekTo::At(sequence) => Gate { sequence: u64::try_from(*sequence).unwrap_or(u64::MAX), ..Gate::default() },
        // Rounded up, because the file counts in milliseconds: the first one that is not before.
        SeekTo::Time(time) => Gate { time_ms: time.0.max(0).unsigned_abs().div_ceil(1_000_000), ..Gate::default() },
    }
}

/// A message boundary in an open file.
type Spot = (Arc<Opened>, u64);

/// What can be looked through.
pub(super) struct Place<'a> {
    pub(super) reading: &'a Reading,
    pub(super) series: Option<&'a Series>,
    /// The one file, if it is no series.
    pub(super) opened: Option<&'a Arc<Opened>>,
    pub(super) until: Option<&'a Until>,
}

impl Place<'_> {
    /// Where `start` lies. A record that is yet to come is waited for at the end.
    pub(super) fn start(&self, to: &SeekTo) -> Result<Option<Spot>> {
        match self.find_any(to)? {
            None => self.find_any(&SeekTo::End),
            found => Ok(found),
        }
    }

    /// Where the first record lies that `to` means, of all streams that are read.
    fn find_any(&self, to: &SeekTo) -> Result<Option<Spot>> {
        let keys: Option<Vec<&str>> =
            self.reading.streams.as_ref().map(|streams| streams.iter().map(String::as_str).collect());
        self.find(keys.as_deref().map_or(Asked::All, Asked::Keys), to)
    }

    /// The same of the streams that are asked for.
    fn find(&self, asked: Asked<'_>, to: &SeekTo) -> Result<Option<Spot>> {
        let Some(series) = self.series else {
            let Some(opened) = self.opened else { return Ok(None) };
            return Ok(find_in(opened, end_of(opened, self.until)?, asked, to)?.map(|offset| (opened.clone(), offset)));
        };
        let last = self.until.map(|until| &until.file);
        let members: Vec<_> =
            series.members().iter().filter(|member| last.is_none_or(|last| member.name <= *last)).collect();
        if *to == SeekTo::End {
            // What one writes that is not finished comes before all later files.
            let open = members.iter().position(|member| member.open).map_or(members.len(), |at| at + 1);
            for member in members[..open].iter().rev() {
                if let Some(opened) = member.open()?.map(Arc::new) {
                    let offset = find_in(&opened, end_of(&opened, self.until)?, asked, to)?;
                    return Ok(offset.map(|offset| (opened, offset)));
                }
            }
            return Ok(None);
        }
        for member in members {
            let Some(opened) = member.open()?.map(Arc::new) else { continue };
            if let Some(offset) = find_in(&opened, end_of(&opened, self.until)?, asked, to)? {
                return Ok(Some((opened, offset)));
            }
        }
        Ok(None)
    }
}

/// Where the first record lies in a file that `to` means.
fn find_in(opened: &Opened, end: u64, asked: Asked<'_>, to: &SeekTo) -> Result<Option<u64>> {
    if end <= HEADER_BYTES as u64 {
        let there = matches!(to, SeekTo::Beginning | SeekTo::Committed | SeekTo::End);
        return Ok(there.then_some(HEADER_BYTES as u64));
    }
    let view = View { file: &opened.file, len: end };
    let Gate { sequence, time_ms, .. } = gate(to);
    let found = match to {
        SeekTo::Beginning | SeekTo::Committed => return Ok(Some(HEADER_BYTES as u64)),
        SeekTo::End => return Ok(Some(find_end(&view).map_err(|error| of(&opened.path, error))?.offset)),
        SeekTo::At(_) => seek_sequence(&view, asked, sequence),
        SeekTo::Time(_) => seek_time(&view, asked, time_ms),
    };
    Ok(found.map_err(|error| of(&opened.path, error))?.map(|position| position.offset))
}

/// Where a source stands, of which a seek begins.
pub(super) struct Standing {
    pub(super) reading: Arc<Reading>,
    pub(super) series: Option<Series>,
    pub(super) opened: Option<Arc<Opened>>,
    pub(super) mark: Mark,
    pub(super) known: Vec<ShardKey>,
    pub(super) until: Option<Until>,
}

impl Standing {
    /// A scanner and the mark where the asked shards, or all, stand elsewhere.
    pub(super) fn seek(mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<(Scanner, Mark)> {
        if let Some(series) = &mut self.series {
            series.look_surely()?;
        }
        let nowhere = self.opened.is_none() && self.series.as_ref().is_none_or(|series| series.members().is_empty());
        let (opened, mark) = match to {
            SeekTo::Beginning | SeekTo::End if nowhere => (None, self.mark.clone()),
            _ if nowhere => return Err(self.nothing(to)),
            _ => self.target(to, shards)?,
        };
        let mut scanner = Scanner::new(self.reading, opened, self.series, &mark, self.until);
        scanner.knows(self.known);
        Ok((scanner, mark))
    }

    fn target(&self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<(Option<Arc<Opened>>, Mark)> {
        let place = Place {
            reading: &self.reading,
            series: self.series.as_ref(),
            opened: self.opened.as_ref(),
            until: self.until.as_ref(),
        };
        let Some(shards) = shards else {
            let (opened, offset) = place.find_any(to)?.ok_or_else(|| self.nothing(to))?;
            let mark = stand(&opened, offset, Gates { rest: gate(to), ..Gates::default() })?;
            return Ok((Some(opened), mark));
        };
        if let Some(foreign) = shards.iter().find(|shard| !self.known.contains(shard)) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("`{}` has no `{foreign}` that is read", self.reading.name),
            )
            .hint("name stream and shard as in the file: `millstream file info` lists them"));
        }
        let asked: Vec<(&str, u64)> = shards.iter().map(|shard| (&*shard.stream, shard.shard)).collect();
        let (opened, offset) = place.find(Asked::Shards(&asked), to)?.ok_or_else(|| self.nothing(to))?;
        let Mark { file, offset: here, gates, .. } = &self.mark;
        let here = (*here).max(HEADER_BYTES as u64);
        // The others go on where they stood, also if the reader goes back before that.
        let mut moved = Gates { rest: gates.rest.behind(file, here), ..Gates::default() };
        moved.shards.extend(gates.shards.iter().map(|(shard, gate)| (shard.clone(), gate.behind(file, here))));
        let gate = Gate { file: opened.name.clone(), offset, ..gate(to) };
        moved.shards.extend(shards.iter().map(|shard| (shard.clone(), gate.clone())));
        if (&opened.name, offset) <= (file, here) {
            let mark = stand(&opened, offset, moved)?;
            return Ok((Some(opened), mark));
        }
        // They are ahead: the reader goes on where it is, also if its file is gone by now.
        let mark = Mark { gates: Arc::new(moved), offset: here, ..self.mark.clone() };
        Ok((self.opened.clone().filter(|opened| opened.name == mark.file), mark))
    }

    fn nothing(&self, to: &SeekTo) -> Error {
        let text = format!("`{}` has no record yet at or after {to} in what is read", self.reading.name);
        Error::new(ErrorKind::NotFound, text).hint("seek to `end` to go on with what comes next")
    }
}
