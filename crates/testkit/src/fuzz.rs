//! Fuzzing on stable Rust: mutated inputs, for a time.

use std::time::{Duration, Instant};

use crate::budget;

/// A small generator (splitmix64): a seed is all that a failure needs.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same rolls for the same seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// The next roll, below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides.max(1)
    }

    fn index(&mut self, len: usize) -> usize {
        // Below `len`, which is a usize.
        self.roll(len as u64) as usize
    }
}

/// Calls `check` with mutations of `examples`: for a minute with `MILLSTREAM_LONG`, else for half a second. `check` fails by
/// panicking; the input is printed first. Answers with the number of inputs.
pub fn fuzz(examples: &[&[u8]], check: impl Fn(&[u8])) -> u64 {
    let time = budget(Duration::from_millis(500), Duration::from_secs(60));
    let first = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let began = Instant::now();
    let mut seed = first.unwrap_or(0);
    while began.elapsed() < time {
        let input = mutated(examples, &mut Dice::new(seed));
        let shown = Shown { seed, input: &input };
        check(&input);
        std::mem::forget(shown);
        seed += 1;
    }
    seed - first.unwrap_or(0)
}

/// Tells the input when a check unwinds.
struct Shown<'a> {
    seed: u64,
    input: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        eprintln!("MILLSTREAM_SEED={} gives {:?}", self.seed, String::from_utf8_lossy(self.input));
    }
}

/// One of the examples after a few random edits.
fn mutated(examples: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut input = examples.get(dice.index(examples.len())).copied().unwrap_or_default().to_vec();
    for _ in 0..dice.roll(6) {
        let at = dice.index(input.len() + 1);
        match dice.roll(7) {
            0 => input.insert(at, dice.roll(256) as u8),
            1 => input.truncate(at),
            2 if at < input.len() => input[at] ^= 1 << dice.roll(8),
            3 if at < input.len() => drop(input.remove(at)),
            4 => {
                let special: &[u8] = SPECIAL[dice.index(SPECIAL.len())];
                input.splice(at..at, special.iter().copied());
            }
            5 => {
                let other = examples[dice.index(examples.len())];
                let (from, to) = (dice.index(other.len() + 1), dice.index(other.len() + 1));
                input.splice(at..at, other[from.min(to)..from.max(to)].iter().copied());
            }
            _ => {
                let to = (at + dice.index(64)).min(input.len());
                let again = input[at.min(to)..to].to_vec();
                input.splice(at..at, again);
            }
        }
    }
    input
}

/// Pieces that parsers tend to stumble over.
const SPECIAL: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b"${",
    b"}",
    b"[",
    b"]",
    b"|",
    b"%",
    b"%ff",
    b"://",
    b"@",
    b"?",
    b"&=",
    b",,",
    b"- ",
    b": ",
    b"\t",
    b"'",
    b"\"",
    b"!x ",
    b"&a *a",
    b"<<",
    b"99999999999999999999",
    b"-1",
    b"\xf0\x9f\xa6\x80",
    b"\x0d",
    b"\xff\xff\xff\xff",
];
