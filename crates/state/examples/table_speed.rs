//! How fast a [`KeyedTable`] counts words, beside good hash maps: `cargo run --release -p millstream-state --example
//! table_speed`.

use std::{hint::black_box, time::Instant};

use hashbrown::HashMap;
use millstream_state::KeyedTable;

type Xxh3 = std::hash::BuildHasherDefault<xxhash_rust::xxh3::Xxh3Default>;

fn main() {
    println!(
        "{:>10} {:>8}  {:>10} {:>12} {:>12} {:>12} {:>12}",
        "keys", "bytes", "table", "taken back", "foldhash", "xxh3", "std"
    );
    for (keys, long) in [(100, false), (10_000, false), (1_000_000, false), (10_000, true)] {
        let words: Vec<String> =
            (0..keys).map(|i| if long { format!("a rather long key of some record {i}") } else { word(i) }).collect();
        // A fixed shuffle with many repeats, as one buffer with ends: the way a batch holds its keys.
        let mut state = 1u64;
        let (mut bytes, mut ends) = (Vec::new(), vec![0usize]);
        for _ in 0..4_000_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.extend_from_slice(words[(state >> 33) as usize % words.len()].as_bytes());
            ends.push(bytes.len());
        }
        let input: Vec<&[u8]> = ends.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let table = best(|| {
            let mut table = KeyedTable::<u64>::new();
            input.iter().for_each(|key| *table.entry(key) += 1);
            table.len()
        });
        // As a fold does it, whose records may panic, in batches.
        let folds = best(|| {
            let mut table = KeyedTable::<u64>::new();
            for batch in input.chunks(1000) {
                let mut folds = table.fold();
                for (row, key) in batch.iter().enumerate() {
                    *folds.entry(row, key) += 1;
                    folds.done();
                }
            }
            table.len()
        });
        let fold = best(|| count(HashMap::<Box<[u8]>, u64>::new(), &input));
        let xxh3 = best(|| count(HashMap::<Box<[u8]>, u64, Xxh3>::default(), &input));
        let std = best(|| {
            let mut map = std::collections::HashMap::<Box<[u8]>, u64>::new();
            for key in &input {
                match map.get_mut(*key) {
                    Some(value) => *value += 1,
                    None => drop(map.insert((*key).into(), 1)),
                }
            }
            map.len()
        });
        let million = |seconds: f64| input.len() as f64 / seconds / 1e6;
        println!(
            "{keys:>10} {:>8}  {:>8.1} M {:>10.1} M {:>10.1} M {:>10.1} M {:>10.1} M   table / foldhash = {:.2}",
            bytes.len() / input.len(),
            million(table),
            million(folds),
            million(fold),
            million(xxh3),
            million(std),
            fold / table
        );
    }
}

fn word(i: usize) -> String {
    let letters = "etaoinshrdlu";
    (0..3 + i % 7).map(|place| letters.as_bytes()[(i >> (place * 3)) % letters.len()] as char).collect::<String>()
        + &i.to_string()
}

fn count<S: std::hash::BuildHasher>(mut map: HashMap<Box<[u8]>, u64, S>, input: &[&[u8]]) -> usize {
    for key in input {
        match map.get_mut(*key) {
            Some(value) => *value += 1,
            None => drop(map.insert((*key).into(), 1)),
        }
    }
    map.len()
}

fn best(mut run: impl FnMut() -> usize) -> f64 {
    let once = |run: &mut dyn FnMut() -> usize| {
        let began = Instant::now();
        black_box(run());
        began.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once(&mut run)).fold(f64::INFINITY, f64::min)
}
