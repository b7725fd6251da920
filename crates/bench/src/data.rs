//! Data to work on, the same in every run.

use std::path::PathBuf;

use anyhow::Result;
use tempfile::TempDir;

/// Random numbers, good enough for data: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// A number from 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A folder that goes away with the handle; in memory where the machine has such a place, so that the disk is not measured.
pub(crate) fn folder() -> Result<TempDir> {
    let memory = PathBuf::from("/dev/shm");
    let root = if memory.is_dir() { memory } else { std::env::temp_dir() };
    Ok(tempfile::Builder::new().prefix("millstream-bench-").tempdir_in(root)?)
}

/// Printable bytes without line ends.
pub(crate) fn letters(bytes: usize) -> Vec<u8> {
    let mut random = Random(1);
    (0..bytes).map(|_| b'a' + random.below(26) as u8).collect()
}

/// Lines of `bytes` bytes, without their line feed.
pub(crate) fn lines(count: usize, bytes: usize) -> Vec<u8> {
    let mut text = letters(count * (bytes + 1));
    text.chunks_exact_mut(bytes + 1).for_each(|line| line[bytes] = b'\n');
    text
}

/// About `bytes` bytes of lower-case text in lines, and how many words it has. Word number `n` of 50,000 comes with a
/// frequency of `1 / n`; frequent words are short.
pub(crate) fn zipf_text(bytes: usize) -> (Vec<u8>, u64) {
    const WORDS: usize = 50_000;
    let mut random = Random(2);
    let vocabulary: Vec<Vec<u8>> = (0..WORDS)
        .map(|rank| {
            let length = 2 + (rank as f64 + 1.0).log10() as u64 + random.below(5);
            (0..length).map(|_| b'a' + random.below(26) as u8).collect()
        })
        .collect();
    let mut sum = 0.0;
    let upto: Vec<f64> = (1..=WORDS)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let (mut text, mut words, mut line) = (Vec::with_capacity(bytes + 128), 0, 0);
    while text.len() < bytes {
        let rank = upto.partition_point(|upto| *upto < random.unit() * sum).min(WORDS - 1);
        text.extend_from_slice(&vocabulary[rank]);
        words += 1;
        let ends = text.len() - line > 90;
        text.push(if ends { b'\n' } else { b' ' });
        line = if ends { text.len() } else { line };
    }
    text.pop();
    text.push(b'\n');
    (text, words)
}

/// An order of 200 bytes as JSON; no two are alike.
pub(crate) fn order(random: &mut Random) -> String {
    let (id, customer) = (random.below(900_000) + 100_000, random.below(9_000) + 1_000);
    let (euros, cents, status) = (random.below(90) + 10, random.below(90) + 10, 200 + random.below(4));
    let (lat, lon) = (random.below(9_000) + 1_000, random.below(9_000) + 1_000);
    format!(
        r#"{{"id":{id},"customer":"c-{customer}","amount":"{euros}.{cents}","currency":"EUR","status":{status},"path":"/shop/cart/checkout/1","agent":"Mozilla/5.0 (X11; x86_64)","tags":["a","b"],"geo":{{"lat":52.{lat},"lon":13.{lon}}}}}"#
    )
}
