//! A whole reply, and the way through it.

use bytes::Bytes;

use super::scan::{Kind, Token};

/// A reply: the bytes as they were read, and the places of its values.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    data: Bytes,
    tokens: Vec<Token>,
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Text(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    Nil,
    /// So many values follow.
    Array(usize),
}

impl Reply {
    pub(crate) fn new(data: Bytes, tokens: Vec<Token>) -> Self {
        Reply { data, tokens }
    }

    /// The bytes as they were read.
    pub(crate) fn data(&self) -> &Bytes {
        &self.data
    }

    /// Its values, from the first.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor { data: &self.data, tokens: &self.tokens, at: 0 }
    }

    /// Its first value.
    pub(crate) fn first(&self) -> Item<'_> {
        self.cursor().next().unwrap_or(Item::Nil)
    }

    /// The text of the server's error, if it is one.
    pub(crate) fn error(&self) -> Option<&str> {
        match self.first() {
            Item::Error(text) => Some(std::str::from_utf8(text).unwrap_or("an error that is no UTF-8")),
            _ => None,
        }
    }

    /// Whether it is an error behind which the server closes the connection: it does not know where the next command begins.
    pub(crate) fn closes(&self) -> bool {
        self.error().is_some_and(|text| text.starts_with("ERR Protocol error"))
    }
}

/// A way through the values of a reply, in the order in which they were sent: an array, then what is in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    data: &'a [u8],
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The next value.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Item<'a>> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        let text =
            || self.data.get(token.start as usize..token.start as usize + token.len as usize).unwrap_or_default();
        Some(match token.kind {
            Kind::Text => Item::Text(text()),
            Kind::Error => Item::Error(text()),
            Kind::Integer => {
                Item::Integer(std::str::from_utf8(text()).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
            }
            Kind::Nil => Item::Nil,
            Kind::Array => Item::Array(token.len as usize),
        })
    }

    /// The next value, if it is a text.
    #[inline]
    pub(crate) fn text(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Item::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The next value, if it is a text, with its place in the reply.
    #[inline]
    pub(crate) fn place(&mut self) -> Option<(usize, &'a [u8])> {
        let start = self.tokens.get(self.at)?.start as usize;
        self.text().map(|text| (start, text))
    }

    /// The next value, if it is a number or a text of one.
    pub(crate) fn integer(&mut self) -> Option<i64> {
        match self.next()? {
            Item::Integer(number) => Some(number),
            Item::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// How many values follow, if the next value is an array; none for nil.
    #[inline]
    pub(crate) fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Item::Array(len) => Some(len),
            Item::Nil => Some(0),
            _ => None,
        }
    }

    /// Goes behind the next value, with all that is in it.
    pub(crate) fn skip(&mut self) {
        let mut missing = 1usize;
        while missing > 0 {
            missing -= 1;
            match self.next() {
                Some(Item::Array(len)) => missing += len,
                Some(_) => {}
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::scan::*, *};

    fn replies(bytes: &[u8], step: usize) -> Result<Vec<Reply>, Malformed> {
        let (mut scanner, mut read, mut all) = (Scanner::new(1 << 20), Vec::new(), Vec::new());
        for chunk in bytes.chunks(step) {
            read.extend_from_slice(chunk);
            while let Some(end) = scanner.scan(&read)? {
                let data: Vec<u8> = read.drain(..end).collect();
                all.push(Reply::new(data.into(), scanner.take()));
            }
        }
        Ok(all)
    }

    #[test]
    fn replies_are_found_however_they_are_cut() {
        let bytes = b"+OK\r\n*3\r\n$3\r\na\r\n\r\n*2\r\n:-7\r\n$-1\r\n*0\r\n-ERR no\r\n*-1\r\n$0\r\n\r\n";
        for step in 1..bytes.len() {
            let all = replies(bytes, step).unwrap();
            assert_eq!(all.len(), 5, "{step}");
            assert_eq!(all[0].first(), Item::Text(b"OK"));
            let mut cursor = all[1].cursor();
            let mut items = Vec::new();
            while let Some(item) = cursor.next() {
                items.push(item);
            }
            use Item::*;
            // A bulk string may hold line ends.
            assert_eq!(items, [Array(3), Text(b"a\r\n"), Array(2), Integer(-7), Nil, Array(0)]);
            assert_eq!(all[2].error(), Some("ERR no"));
            assert_eq!((all[3].first(), all[4].first()), (Nil, Text(b"")));
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in ["HTTP/1.1 400\r\n", "*x\r\n", "$99999999999\r\n", "\r\n", "\n", "$2000000\r\n", "*-2\r\n"] {
            assert!(replies(bytes.as_bytes(), 3).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn no_bytes_are_a_panic() {
        let good = b"*2\r\n$1\r\na\r\n*1\r\n:5\r\n";
        for at in 0..good.len() {
            for byte in 0..=255u8 {
                let mut bytes = good.to_vec();
                bytes[at] = byte;
                let _ = replies(&bytes, 7);
            }
        }
    }
}
