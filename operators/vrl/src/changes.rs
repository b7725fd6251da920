//! What a program assigned in a value: the order of new fields, and which of the old ones are no longer as they were.

use vrl::{
    path::{OwnedSegment, OwnedValuePath},
    value::KeyString,
};

/// What was done at one place of a value, and below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Changes {
    how: How,
    /// Fields with changes, in the order in which they were first assigned; also those that were deleted.
    children: Vec<(KeyString, Changes)>,
}

/// What was done at one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum How {
    /// Only something below it.
    #[default]
    Inside,
    /// Another value took its place, which may have much of the old one in it.
    Replaced,
    /// An object took its place that the program spells out, so it has the order in which it is written there.
    Written,
}

impl Changes {
    /// An object spelled out in a program, with the names in the order in which they stand there.
    pub(crate) fn written(children: Vec<(KeyString, Changes)>) -> Self {
        Changes { how: How::Written, children }
    }

    /// Another value.
    pub(crate) fn replaced() -> Self {
        Changes { how: How::Replaced, children: Vec::new() }
    }

    pub(crate) fn how(&self) -> How {
        self.how
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&KeyString, &Changes)> {
        self.children.iter().map(|(name, changes)| (name, changes))
    }

    pub(crate) fn child(&self, name: &[u8]) -> Option<&Changes> {
        self.children.iter().find(|(known, _)| known.as_bytes() == name).map(|(_, changes)| changes)
    }

    /// Notes that the value at `path` was assigned.
    pub(crate) fn assign(&mut self, path: &OwnedValuePath, what: &Changes) {
        if let Some(place) = self.place(&path.segments) {
            *place = what.clone();
        }
    }

    /// Notes that the value at `path` was deleted; with `compact` also what became empty by it.
    pub(crate) fn delete(&mut self, path: &OwnedValuePath, compact: bool) {
        let (place, replaced) = match path.segments.split_last() {
            None => (&[][..], true),
            Some(_) if compact => (&path.segments[..1], true),
            // An item that is gone moves the others.
            Some((OwnedSegment::Index(_), above)) => (above, true),
            Some((OwnedSegment::Field(_), _)) => (&path.segments[..], false),
        };
        if let Some(place) = self.place(place)
            && replaced
            && place.how == How::Inside
        {
            place.how = How::Replaced;
        }
    }

    /// Whether nothing was changed at `path`, above it or below it.
    pub(crate) fn spared(&self, path: &OwnedValuePath) -> bool {
        let mut changes = self;
        for segment in &path.segments {
            match (changes.how, segment) {
                (How::Inside, OwnedSegment::Field(name)) => match changes.child(name.as_bytes()) {
                    Some(child) => changes = child,
                    None => return true,
                },
                _ => return false,
            }
        }
        false
    }

    /// The node for a path; `None` where the path goes into an array, which is marked as replaced.
    fn place(&mut self, path: &[OwnedSegment]) -> Option<&mut Changes> {
        let mut place = self;
        for segment in path {
            let OwnedSegment::Field(name) = segment else {
                if place.how == How::Inside {
                    place.how = How::Replaced;
                }
                return None;
            };
            let found = place.children.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                place.children.push((name.clone(), Changes::default()));
                place.children.len() - 1
            });
            place = &mut place.children[found].1;
        }
        Some(place)
    }
}
