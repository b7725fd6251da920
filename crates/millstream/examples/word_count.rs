//! Counts the words of a text, with keyed state that survives a crash.
//!
//! ```text
//! cargo run --release --example word_count -- README.md
//! ```

use millstream::prelude::*;

#[tokio::main]
async fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "README.md".to_owned());
    Pipeline::new("word-count-rust")
        .in_memory()
        .source(&format!("file:{path}"))
        .flat_map(|line, words| {
            let text = line.value().unwrap_or_default();
            text.split(|byte| !byte.is_ascii_alphabetic())
                .filter(|word| !word.is_empty())
                .for_each(|word| words.value(word));
        })
        .map(|word, lower| {
            lower.extend(word.value().unwrap_or_default().iter().map(u8::to_ascii_lowercase));
            Ok(())
        })
        .fold(
            "count",
            |word| word.value(),
            |count: &mut u64, _| *count += 1,
            |word, count, line| {
                line.extend_from_slice(format!("{:>7} {}", count, String::from_utf8_lossy(word)).as_bytes());
            },
        )
        .sink("stdio:?format=raw")
        .run()
        .await?;
    Ok(())
}
