//! Counting words: keyed state in Rust and from a pipeline file.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Result, anyhow, ensure};
use hashbrown::HashMap;
use millstream::{
    Home,
    runtime::{Plan, PlanOptions, Running},
};
use millstream_config::Variables;

use crate::{
    data,
    harness::{Contender, Table, compete},
    parts::{pipeline, run as run_pipeline},
};

const TEXT_BYTES: usize = 100_000_000;
/// The pipeline file is slower by an order, and gets less to do.
const FILE_TEXT_BYTES: usize = 20_000_000;
const ROUNDS: usize = 3;

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let folder = data::folder()?;
    let (text, words) = data::zipf_text(TEXT_BYTES);
    let path = folder.path().join("text.txt");
    std::fs::write(&path, &text)?;
    let contenders = vec![
        Contender::new("ours", || ours(&path, folder.path(), words)),
        Contender::new("loop by hand", || by_hand(&path, words)),
        #[cfg(feature = "peers")]
        Contender::new("timely", || crate::peers::dataflow::words(&path, words)),
    ];
    let rates = compete(ROUNDS, contenders)?;
    table.ratio("word count in Rust", &rates[0], &rates[1], 0.5);
    rates[2..].iter().for_each(|timely| table.ratio("  against timely", &rates[0], timely, 1.0));

    let (text, words) = data::zipf_text(FILE_TEXT_BYTES);
    std::fs::write(&path, &text)?;
    let rates = compete(ROUNDS, vec![Contender::new("ours", || from_file(&path, folder.path(), words))])?;
    table.rate("word count, pipeline file", &rates[0], 1e6);
    Ok(())
}

fn ours(path: &Path, folder: &Path, words: u64) -> Result<u64> {
    let pipeline = pipeline("words", folder)
        .source(&format!("file:{}", path.display()))
        .flat_map(|line, words| {
            let text = line.value().unwrap_or_default();
            text.split(|byte| !byte.is_ascii_alphabetic())
                .filter(|word| !word.is_empty())
                .for_each(|word| words.value(word));
        })
        .fold(
            "count",
            |word| word.value(),
            |count: &mut u64, _| *count += 1,
            |word, count, line| {
                line.extend_from_slice(word);
                line.extend_from_slice(format!(" {count}").as_bytes());
            },
        )
        .sink("drop:");
    let summary = run_pipeline(&pipeline)?;
    let counted = summary.stages.get("count").map_or(0, |figures| figures.records_in);
    ensure!(counted == words, "{counted} of {words} words were counted");
    Ok(words)
}

fn by_hand(path: &Path, words: u64) -> Result<u64> {
    let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        for word in line.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(counts.insert(word.to_vec(), 1)),
            }
        }
        line.clear();
    }
    let counted: u64 = counts.values().sum();
    ensure!(counted == words, "{counted} of {words} words were counted");
    Ok(words)
}

/// The pipeline file of the documentation, into nothing.
fn from_file(path: &Path, folder: &Path, words: u64) -> Result<u64> {
    let text = format!(
        "name: words-file\nsource:\n  file: {{ path: \"{}\", codec: lines }}\nsteps:\n  \
         - map: \". = split(downcase(string!(.)), r'[^a-z]+')\"\n  - split: {{}}\n  - filter: '. != \"\"'\n  \
         - aggregate: {{ key: ., fields: {{ count: count() }}, emit: end }}\nsink:\n  drop: {{}}\n",
        path.display()
    );
    let registry = millstream::registry();
    let file = millstream_config::parse(text.as_bytes(), Path::new("words.yaml"), &registry, &Variables::default())
        .map_err(|wrong| anyhow!("{wrong:?}"))?;
    let plan = Plan::new(file.spec(), &registry, PlanOptions::default()).map_err(|wrong| anyhow!("{wrong:?}"))?;
    let options = Home::new(folder.join("state")).options(&plan);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(async { Running::start(plan, options).wait().await })?;
    let counted = summary.stages.get("aggregate").map_or(0, |figures| figures.records_in);
    ensure!(counted == words, "{counted} of {words} words were counted");
    Ok(words)
}
