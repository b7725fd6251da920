//! Values for scripts: MessagePack, which Redis' Lua reads.

/// An array that grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
}

impl Packed {
    /// Begins an array of so many values, which must follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.bytes.push(0xdd);
        self.length(len);
    }

    /// A byte string.
    pub(crate) fn text(&mut self, text: &[u8]) {
        self.bytes.push(0xdb);
        self.length(text.len());
        self.bytes.extend_from_slice(text);
    }

    fn length(&mut self, len: usize) {
        // A record has at most 512 MiB.
        self.bytes.extend_from_slice(&(len as u32).to_be_bytes());
    }

    /// What was packed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Nothing, again.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }
}
