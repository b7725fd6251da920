//! Which stream a record goes to.

use millstream_core::{Error, ErrorKind, RecordRef, Result};

/// The name of a stream, with places that each record fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The stream where the record was read.
    Stream,
    Key,
    Header(String),
}

impl Template {
    /// Reads `text` and `{stream}`, `{key}`, `{header:NAME}`. A brace that begins none of them is meant as it stands: it may
    /// be the tag of a key.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        // As the records say: those of a source name the stream where they were read, those of a producer theirs.
        let Some(text) = text else { return Ok(Template(vec![Part::Stream])) };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let (before, tail) = rest.split_at(open);
            literal.push_str(before);
            let place = tail.find('}').and_then(|close| Some((tail.get(1..close)?, tail.get(close + 1..)?)));
            let part = place.and_then(|(name, after)| Some((part(name)?, after)));
            match part {
                Some((part, after)) => {
                    parts.extend((!literal.is_empty()).then(|| Part::Text(std::mem::take(&mut literal))));
                    parts.push(part);
                    rest = after;
                }
                None => {
                    literal.push('{');
                    rest = tail.get(1..).unwrap_or_default();
                }
            }
        }
        literal.push_str(rest);
        parts.extend((!literal.is_empty()).then_some(Part::Text(literal)));
        if parts.is_empty() {
            return Err(Error::new(ErrorKind::Option, "the name of the stream is empty")
                .hint("write `redis://node/stream`, or leave `stream` out for the streams that records name")
                .within("stream"));
        }
        Ok(Template(parts))
    }

    /// The name, if it is the same for all records.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// What all names begin with, if there is such a thing.
    pub(super) fn prefix(&self) -> Option<&str> {
        match self.0.first() {
            Some(Part::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The name for a record.
    pub(super) fn fill(&self, record: &RecordRef<'_>, name: &mut Vec<u8>) -> Result<()> {
        name.clear();
        for part in &self.0 {
            match part {
                Part::Text(text) => name.extend_from_slice(text.as_bytes()),
                Part::Stream => name.extend_from_slice(record.origin().stream.as_bytes()),
                Part::Key => name.extend_from_slice(record.key().ok_or_else(|| missing("key"))?),
                Part::Header(header) => {
                    let value = record.headers().find(|(name, _)| name == header).and_then(|(_, value)| value);
                    name.extend_from_slice(value.ok_or_else(|| missing(&format!("header `{header}`")))?);
                }
            }
        }
        if name.is_empty() {
            return Err(Error::new(ErrorKind::Data, "the record names no stream: what `stream` refers to is empty"));
        }
        Ok(())
    }
}

fn part(name: &str) -> Option<Part> {
    match name {
        "stream" => Some(Part::Stream),
        "key" => Some(Part::Key),
        _ => name.strip_prefix("header:").map(|header| Part::Header(header.to_owned())),
    }
}

fn missing(what: &str) -> Error {
    Error::new(ErrorKind::Data, format!("the record names no stream: it has no {what}"))
        .hint("leave such records out with a `filter`, or name another stream")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::{BatchBuilder, Record};

    #[test]
    fn places_are_filled_and_tags_are_left() {
        let mut record = Record::new("in", "v");
        record.key = Some("K".into());
        record.headers = vec![("to".into(), Some("T".into()))];
        let mut builder = BatchBuilder::new();
        builder.push(&record);
        let batch = builder.finish();
        let filled = |text: &str| {
            let mut name = Vec::new();
            Template::parse(Some(text))
                .unwrap()
                .fill(&batch.get(0), &mut name)
                .map(|()| String::from_utf8(name).unwrap())
        };
        assert_eq!(filled("a-{stream}-{key}{header:to}").unwrap(), "a-in-KT");
        assert_eq!(filled("{tag}:{key}:{").unwrap(), "{tag}:K:{");
        assert_eq!(filled("{header:no}").unwrap_err().kind(), ErrorKind::Data);
        assert_eq!(Template::parse(Some("a{b}c")).unwrap().constant(), Some("a{b}c"));
        assert!(Template::parse(Some("")).is_err());
    }
}
