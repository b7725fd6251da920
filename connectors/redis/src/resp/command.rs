//! Commands as they are sent.

use std::io::Write as _;

/// Commands, one behind the other in one buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    /// None, with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Commands { bytes: Vec::with_capacity(bytes), count: 0 }
    }

    /// One command.
    pub(crate) fn one(words: &[&[u8]]) -> Self {
        let mut commands = Commands::default();
        commands.push(words);
        commands
    }

    /// Appends a command.
    pub(crate) fn push(&mut self, words: &[&[u8]]) {
        self.begin(words.len());
        words.iter().for_each(|word| self.word(word));
    }

    /// Appends commands that are encoded already.
    pub(crate) fn append(&mut self, bytes: &[u8], count: usize) {
        self.bytes.extend_from_slice(bytes);
        self.count += count;
    }

    /// Begins a command of so many words, which must follow.
    #[inline]
    pub(crate) fn begin(&mut self, words: usize) {
        self.header(b'*', words);
        self.count += 1;
    }

    /// The next word.
    #[inline]
    pub(crate) fn word(&mut self, word: &[u8]) {
        self.header(b'$', word.len());
        self.bytes.extend_from_slice(word);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// The next word, a number.
    pub(crate) fn number(&mut self, number: u64) {
        let mut text = [0; 20];
        self.word(digits(number, &mut text));
    }

    #[inline]
    fn header(&mut self, kind: u8, count: usize) {
        self.bytes.push(kind);
        match count {
            // Nearly all words are short.
            0..=9 => self.bytes.push(b'0' + count as u8),
            10..=99 => self.bytes.extend_from_slice(&[b'0' + (count / 10) as u8, b'0' + (count % 10) as u8]),
            // Writing to a vector cannot fail.
            _ => drop(write!(self.bytes, "{count}")),
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// All of them.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of all of them.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The buffer.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A number as decimal digits, at the end of `text`.
pub(crate) fn digits(mut number: u64, text: &mut [u8; 20]) -> &[u8] {
    let mut at = text.len();
    // 20 digits hold every u64, so `at` stays above 0 while there is one to write.
    for place in text.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    text.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_words() {
        let mut commands = Commands::one(&[b"GET", b"k"]);
        commands.begin(3);
        commands.word(b"XADD");
        commands.word(&[b'x'; 123]);
        commands.number(10_234);
        let expected =
            format!("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*3\r\n$4\r\nXADD\r\n$123\r\n{}\r\n$5\r\n10234\r\n", "x".repeat(123));
        assert_eq!((commands.len(), commands.bytes()), (2, expected.as_bytes()));
        let mut text = [0; 20];
        assert_eq!(digits(u64::MAX, &mut text), u64::MAX.to_string().as_bytes());
        assert_eq!(digits(0, &mut text), b"0");
    }
}
