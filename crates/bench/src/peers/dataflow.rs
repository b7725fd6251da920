//! The same work in timely dataflow, with owned records, on one worker.

use std::{
    cell::Cell,
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Result, ensure};
use timely::dataflow::{
    InputHandle, ProbeHandle,
    channels::pact::Pipeline,
    operators::{Inspect as _, Operator as _, Probe as _, vec::Map as _},
};

use crate::parts::RECORD_BYTES;

/// Records given between two steps of the worker.
const BATCH_RECORDS: u64 = 1_024;

/// Source, map, drop. The map shortens the record that it owns, which copies nothing.
pub(crate) fn flow(buffer: &[u8], records: u64, cut: usize) -> u64 {
    let buffer = buffer.to_vec();
    timely::execute_directly(move |worker| {
        let mut input = InputHandle::new();
        let probe = ProbeHandle::new();
        let bytes = Rc::new(Cell::new(0));
        let seen = bytes.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            input
                .to_stream(scope)
                .map(move |mut record: Vec<u8>| {
                    record.truncate(RECORD_BYTES - cut);
                    record
                })
                .inspect(move |record| seen.set(seen.get() + record.len() as u64))
                .probe_with(&probe);
        });
        let mut done = 0;
        for record in buffer.chunks_exact(RECORD_BYTES).cycle() {
            input.send(record.to_vec());
            done += 1;
            if done % BATCH_RECORDS == 0 {
                input.advance_to(done);
                worker.step_while(|| probe.less_than(input.time()));
            }
            if done >= records {
                break;
            }
        }
        input.advance_to(done + 1);
        worker.step_while(|| probe.less_than(input.time()));
        bytes.get() / (RECORD_BYTES - cut) as u64
    })
}

/// Counts the words of a file: lines in, each cut into words, counted by word.
pub(crate) fn words(path: &Path, words: u64) -> Result<u64> {
    let path: PathBuf = path.to_owned();
    let counted: std::io::Result<u64> = timely::execute_directly(move |worker| {
        let mut input = InputHandle::new();
        let probe = ProbeHandle::new();
        let total = Rc::new(Cell::new(0u64));
        let counted = total.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            input
                .to_stream(scope)
                .flat_map(|line: String| {
                    let words =
                        line.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| !word.is_empty());
                    words.map(str::to_owned).collect::<Vec<String>>()
                })
                .unary::<timely::container::CapacityContainerBuilder<Vec<(String, u64)>>, _, _, _>(
                    Pipeline,
                    "count",
                    |_, _| {
                        let mut counts: HashMap<String, u64> = HashMap::new();
                        move |input, _output| {
                            input.for_each_time(|_, data| {
                                for word in data.flat_map(std::mem::take) {
                                    *counts.entry(word).or_insert(0) += 1;
                                    counted.set(counted.get() + 1);
                                }
                            });
                        }
                    },
                )
                .probe_with(&probe);
        });
        let mut round = 0;
        for line in BufReader::with_capacity(1 << 20, File::open(path)?).lines() {
            input.send(line?);
            round += 1;
            if round % BATCH_RECORDS == 0 {
                input.advance_to(round);
                worker.step_while(|| probe.less_than(input.time()));
            }
        }
        input.advance_to(round + 1);
        worker.step_while(|| probe.less_than(input.time()));
        Ok(total.get())
    });
    let counted = counted?;
    ensure!(counted == words, "{counted} of {words} words were counted");
    Ok(words)
}
