//! The `.ss` codec against a plain model, against files of another implementation, and against damage.

use millstream_codec::ss::{
    Asked, Block, CONTROL_KEY, Header, SsReader, SsWriter, Step, Tail, find_end, read_header, repair, seek_sequence,
    seek_time, verify,
};
use proptest::prelude::*;

use crate::ss_model::{self, Model, Msg};

const KEYS: [&str; 3] = ["a", "clicks", "events of a long name"];

#[derive(Clone, Debug)]
struct Plan {
    interval: u32,
    messages: Vec<(usize, u64, u64, usize)>,
}

fn intervals() -> impl Strategy<Value = u32> {
    prop_oneof![Just(128), 128u32..400, 571u32..700, Just(1024), Just(2048), Just(4096)]
}

fn plans(count: usize) -> impl Strategy<Value = Plan> {
    let size = prop_oneof![4 => 0usize..40, 3 => 40usize..200, 1 => 200usize..3000];
    let message = (0..KEYS.len(), 0u64..3, 0u64..50, size);
    (intervals(), prop::collection::vec(message, 0..count)).prop_map(|(interval, messages)| Plan { interval, messages })
}

fn payload(size: usize, salt: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31) ^ salt.wrapping_mul(17)) as u8).collect()
}

/// The file of a plan by the model and by the writer, step by step the same.
fn build(plan: &Plan) -> (Model, Vec<Msg>, Vec<u8>) {
    let header = Header::with_any_interval("t.ss", 77, plan.interval).unwrap();
    let mut out = Vec::new();
    let mut writer = SsWriter::new(&header, &mut out);
    let mut model = Model::new(plan.interval, "t.ss", 77);
    let mut messages = Vec::new();
    for (n, (key, shard, jitter, size)) in plan.messages.iter().enumerate() {
        let msg = next_msg(&model, KEYS[*key], *shard, 1000 + n as u64 * 10 + jitter, payload(*size, n));
        model.write(&msg);
        let sequence = writer.append(&msg.key, msg.shard, None, msg.time_ms, &msg.payload, &mut out).unwrap();
        assert_eq!(sequence, msg.sequence);
        assert_eq!(writer.offset(), out.len() as u64);
        messages.push(msg);
    }
    assert!(model.bytes == out, "the writer and the model differ");
    (model, messages, out)
}

fn next_msg(model: &Model, key: &str, shard: u64, time_ms: u64, payload: Vec<u8>) -> Msg {
    Msg { key: key.into(), shard, sequence: model.next(key, shard), time_ms, payload }
}

/// All messages from where `reader` stands, fed in pieces; and the step that ended it.
fn read_all(mut reader: SsReader, file: &[u8], mut sizes: impl FnMut() -> usize) -> (Vec<(u64, Msg)>, Step) {
    let mut messages = Vec::new();
    let (mut from, mut to) = (reader.offset() as usize, reader.offset() as usize);
    loop {
        let last = to >= file.len();
        let block = Block { bytes: &file[from.min(file.len())..to.min(file.len())], offset: from as u64, last };
        match reader.next(block) {
            Step::Message(message) => {
                let (key, shard) = reader.stream(message.stream).unwrap();
                let payload = reader.payload(block, message.payload).to_owned();
                let (sequence, time_ms) = (message.sequence, message.time_ms);
                messages.push((message.offset, Msg { key: key.into(), shard, sequence, time_ms, payload }));
            }
            Step::NeedMore { bytes } => {
                assert!(!last, "more is wanted than there is");
                from = reader.offset() as usize;
                to = (from + (bytes as usize).max(sizes())).min(file.len()).max(from);
            }
            step => return (messages, step),
        }
    }
}

fn check_end(file: &[u8], model: &Model, offset: u64) {
    let end = find_end(file).unwrap();
    assert_eq!(end.offset, offset, "end of {} bytes", file.len());
    let streams: Vec<_> =
        end.streams.iter().map(|s| ((s.key.clone(), s.shard), (s.sequence, s.time_ms, s.running))).collect();
    let expected: Vec<_> = model.states.clone().into_iter().collect();
    assert_eq!(streams, expected, "streams at {} bytes", file.len());
    let torn = (offset < file.len() as u64).then_some(Tail::Torn { offset });
    assert_eq!(end.tail, torn.unwrap_or(Tail::Whole));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn writer_and_reader_agree_with_the_model(plan in plans(40), sizes in prop::collection::vec(1usize..5000, 1..9)) {
        let (model, messages, file) = build(&plan);
        let header = read_header(&file[..]).unwrap();
        let mut turn = 0;
        let (read, step) = read_all(SsReader::new(&header), &file, || { turn += 1; sizes[turn % sizes.len()] });
        prop_assert_eq!(step, Step::FileEnd);
        prop_assert_eq!(&read, &ss_model::read(&model.bytes));
        prop_assert_eq!(read.iter().map(|(_, msg)| msg.clone()).collect::<Vec<_>>(), messages);
        let report = verify(&file[..]).unwrap();
        prop_assert!(report.whole(), "{:?}", report.damaged);
        prop_assert_eq!(report.messages as usize, plan.messages.len());
        // From every message, and from every beacon.
        for (at, (offset, _)) in read.iter().enumerate().step_by(7) {
            prop_assert_eq!(&read_all(SsReader::at(&header, *offset), &file, || 512).0[..], &read[at..]);
        }
        for n in 0..file.len() as u64 / u64::from(plan.interval) {
            let offset = n * u64::from(plan.interval);
            let from = read_all(SsReader::at_beacon(&header, n), &file, || 512).0;
            let expected: Vec<_> = read.iter().filter(|(start, _)| *start > offset).cloned().collect();
            prop_assert_eq!(from, expected, "from beacon {}", n);
        }
    }

    #[test]
    fn a_crash_anywhere_is_survived(plan in plans(12), more in plans(6), extra in 0usize..300) {
        let (model, _, file) = build(&plan);
        let step = 1 + file.len() / 400;
        for cut in (128..=file.len()).skip(extra % step).step_by(step) {
            let mut model = model.clone();
            let offset = model.reopen(cut as u64);
            check_end(&file[..cut], &model, offset);
            let mut file = file[..cut].to_vec();
            prop_assert!(verify(&file[..]).unwrap().whole());
            let end = find_end(&file[..]).unwrap();
            file.truncate(end.offset as usize);
            let mut writer = SsWriter::resume(&end, &mut file).unwrap();
            for (n, (key, shard, time_ms, size)) in more.messages.iter().enumerate() {
                let msg = next_msg(&model, KEYS[*key], *shard, 2000 + time_ms, payload(*size, n));
                model.write(&msg);
                writer.append(&msg.key, msg.shard, None, msg.time_ms, &msg.payload, &mut file).unwrap();
            }
            prop_assert!(model.bytes == file, "cut at {}", cut);
            prop_assert!(verify(&file[..]).unwrap().whole());
        }
    }

    #[test]
    fn the_end_of_stream_is_found_and_removed(plan in plans(20)) {
        let (mut model, messages, mut file) = build(&plan);
        let header = read_header(&file[..]).unwrap();
        let offset = file.len() as u64;
        let end = find_end(&file[..]).unwrap();
        model.reopen(offset);
        let mut writer = SsWriter::resume(&end, &mut file).unwrap();
        writer.end(9, &mut file).unwrap();
        prop_assert!(writer.append("a", 0, None, 0, b"", &mut file).is_err());
        model.write(&Msg { key: CONTROL_KEY.into(), shard: 0, sequence: 0, time_ms: 9, payload: b"EOS".to_vec() });
        prop_assert!(model.bytes == file);
        let (read, step) = read_all(SsReader::new(&header), &file, || 100);
        prop_assert_eq!(read.len(), messages.len());
        let eos = Step::EndOfStream { offset, end: model.marks.last().unwrap().end, time_ms: 9 };
        prop_assert_eq!(step, eos);
        let ended = find_end(&file[..]).unwrap();
        prop_assert_eq!((ended.offset, ended.end_of_stream), (offset, Some(offset)));
        prop_assert_eq!(ended.streams, end.streams);
        let mut copy = Vec::new();
        repair(&file[..], &header, &mut copy).unwrap();
        prop_assert_eq!(ss_model::read(&copy).into_iter().map(|(_, msg)| msg).collect::<Vec<_>>(),
            ss_model::read(&file).into_iter().map(|(_, msg)| msg).collect::<Vec<_>>());
    }

    #[test]
    fn seeks_find_the_first_message(plan in plans(120), targets in prop::collection::vec(0u64..1400, 12)) {
        let (_, _, file) = build(&plan);
        let messages = ss_model::read(&file);
        for target in targets {
            let key = KEYS[target as usize % 3];
            let shards = [(key, target % 3), (KEYS[1], 1)];
            let keys = [key];
            for (asked, has) in [
                (Asked::All, Box::new(|_: &Msg| true) as Box<dyn Fn(&Msg) -> bool>),
                (Asked::Keys(&keys), Box::new(|msg: &Msg| msg.key == key)),
                (Asked::Shards(&shards), Box::new(|msg: &Msg| shards.contains(&(&*msg.key, msg.shard)))),
                (Asked::Shards(&shards[..1]), Box::new(|msg: &Msg| shards[0] == (&*msg.key, msg.shard))),
            ] {
                let time_ms = 900 + target;
                let expected = messages.iter().find(|(_, msg)| has(msg) && msg.time_ms >= time_ms).map(|(at, _)| *at);
                let found = seek_time(&file[..], asked, time_ms).unwrap().map(|position| position.offset);
                prop_assert_eq!(found, expected, "time {} {:?}", time_ms, asked);
                let n = target % 20;
                let expected = messages.iter().find(|(_, msg)| has(msg) && msg.sequence >= n).map(|(at, _)| *at);
                let found = seek_sequence(&file[..], asked, n).unwrap().map(|position| position.offset);
                prop_assert_eq!(found, expected, "sequence {} {:?}", n, asked);
            }
        }
    }

    #[test]
    fn damage_is_found_and_the_rest_is_saved(plan in plans(30), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (_, messages, mut file) = build(&plan);
        let header = read_header(&file[..]).unwrap();
        let at = at.index(file.len());
        file[at] ^= 1 << bit;
        let _ = find_end(&file[..]);
        let _ = seek_time(&file[..], Asked::All, 1100);
        let mut copy = Vec::new();
        let report = repair(&file[..], &header, &mut copy).unwrap();
        prop_assert!(verify(&copy[..]).unwrap().whole());
        let saved = ss_model::read(&copy);
        prop_assert_eq!(saved.len() as u64, report.messages);
        // A changed header of a message cannot be seen by its checksum; each payload saved is one that was written.
        for (_, msg) in saved {
            prop_assert!(messages.iter().any(|original| original.payload == msg.payload));
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), interval in intervals(), n in 0u64..5) {
        let header = Header::with_any_interval("g.ss", 1, interval).unwrap();
        let _ = find_end(&bytes[..]);
        let mut file = header.encode().to_vec();
        file.extend(&bytes);
        let _ = find_end(&file[..]).unwrap();
        let _ = verify(&file[..]).unwrap();
        let _ = seek_sequence(&file[..], Asked::All, n).unwrap();
        let _ = seek_time(&file[..], Asked::Shards(&[("a", 1)]), n).unwrap();
        let mut reader = SsReader::at_beacon(&header, n);
        for _ in 0..bytes.len() {
            if let Step::Damaged { .. } = reader.next(Block { bytes: &bytes, offset: 100, last: n % 2 == 0 }) {
                reader.resync();
            }
        }
    }
}

#[test]
fn every_prefix_of_one_file_opens() {
    let messages = (0..14).map(|n| (n % 3, n as u64 % 2, 3, n * 37 % 500)).collect();
    for interval in [128, 600, 1024] {
        let (model, _, file) = build(&Plan { interval, messages: Vec::clone(&messages) });
        for cut in 0..=file.len() {
            if cut < 128 {
                assert!(find_end(&file[..cut]).is_err());
                continue;
            }
            let mut model = model.clone();
            let offset = model.reopen(cut as u64);
            check_end(&file[..cut], &model, offset);
        }
    }
}

#[test]
fn streams_that_take_turns_are_all_found_again() {
    // One item a beacon, forty streams, several hundred beacons: the end is judged by turns, not by a scan.
    let header = Header::new("turns.ss", 0, 1024).unwrap();
    let mut model = Model::new(1024, "turns.ss", 0);
    let mut file = Vec::new();
    let mut writer = SsWriter::new(&header, &mut file);
    for n in 0..3000u64 {
        let shard = if n < 40 { n } else { n * n % 39 };
        let msg = next_msg(&model, "turns", shard, n, payload(70, n as usize));
        model.write(&msg);
        writer.append("turns", shard, None, n, &msg.payload, &mut file).unwrap();
        if n % 500 == 499 {
            model.reopen(file.len() as u64);
            writer = SsWriter::resume(&find_end(&file[..]).unwrap(), &mut file).unwrap();
        }
    }
    assert!(model.bytes == file);
    check_end(&file, &model, file.len() as u64);
    let messages = ss_model::read(&file);
    for (shard, sequence) in [(39, 1), (4, 30), (0, 2), (17, 1)] {
        let expected = messages.iter().find(|(_, msg)| msg.shard == shard && msg.sequence >= sequence).map(|m| m.0);
        let found = seek_sequence(&file[..], Asked::Shards(&[("turns", shard)]), sequence).unwrap();
        assert_eq!(found.map(|position| position.offset), expected);
    }
}

#[test]
fn zeros_behind_the_end_are_damage_and_cut_off() {
    let (_, _, mut file) = build(&Plan { interval: 1024, messages: vec![(0, 0, 0, 100); 30] });
    let whole = file.len() as u64;
    file.resize(file.len() + 3000, 0);
    let end = find_end(&file[..]).unwrap();
    assert_eq!(end.offset, whole);
    assert!(matches!(end.tail, Tail::Damaged { offset, .. } if offset == whole), "{:?}", end.tail);
}

#[test]
fn a_flipped_byte_costs_one_message() {
    let (_, messages, file) = build(&Plan { interval: 1024, messages: vec![(0, 0, 0, 100); 30] });
    let places = ss_model::read(&file);
    let header = read_header(&file[..]).unwrap();
    for (offset, _) in &places[..29] {
        let mut file = file.clone();
        let payload_at = *offset as usize + 34;
        if payload_at % 1024 < 90 {
            continue;
        }
        file[payload_at] ^= 1;
        let mut copy = Vec::new();
        let report = repair(&file[..], &header, &mut copy).unwrap();
        assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
        assert_eq!(report.damaged[0].offset, *offset);
        assert_eq!(ss_model::read(&copy).len(), messages.len() - 1);
        assert!(report.error().unwrap().message().contains(&offset.to_string()));
    }
}

#[test]
fn explicit_sequences_must_rise() {
    let header = Header::new("x.ss", 0, 1024).unwrap();
    let mut out = Vec::new();
    let mut writer = SsWriter::new(&header, &mut out);
    assert_eq!(writer.append("a", 0, Some(0), 0, b"", &mut out).unwrap(), 0);
    assert_eq!(writer.append("a", 0, Some(7), 0, b"", &mut out).unwrap(), 7);
    let before = out.len();
    assert!(writer.append("a", 0, Some(7), 0, b"", &mut out).is_err());
    assert!(writer.append(&"k".repeat(256), 0, None, 0, b"", &mut out).is_err());
    assert!(writer.append(CONTROL_KEY, 0, None, 0, b"", &mut out).is_err());
    assert_eq!(out.len(), before);
    assert_eq!(writer.append("a", 0, None, 0, b"", &mut out).unwrap(), 8);
    let max = writer.stream("max", 0).unwrap();
    writer.append_at(max, u64::MAX, 0, b"", &mut out).unwrap();
    assert!(writer.append_to(max, 0, b"", &mut out).is_err());
}

#[test]
fn the_file_of_another_implementation() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures/sample-1.ss");
    let Ok(file) = std::fs::read(path) else {
        println!("skipped: no fixture at {path}");
        return;
    };
    let header = read_header(&file[..]).unwrap();
    assert_eq!((header.created_at_ms(), header.beacon_interval()), (1_694_767_177_437, 1024 * 1024));
    assert_eq!(header.encode(), file[..128]);
    let (messages, step) = read_all(SsReader::new(&header), &file, || 100);
    let events: Vec<_> = messages.iter().filter(|(_, m)| m.key == "event").map(|(_, m)| m.sequence).collect();
    assert_eq!(events, (1..=22).collect::<Vec<_>>());
    let Step::EndOfStream { offset, time_ms, .. } = step else { panic!("no end of stream: {step:?}") };
    let report = verify(&file[..]).unwrap();
    assert!(report.whole());
    assert_eq!(report.end_of_stream, Some(offset));
    assert_eq!(find_end(&file[..]).unwrap().offset, offset);

    let mut out = Vec::new();
    let mut writer = SsWriter::new(&header, &mut out);
    for (_, msg) in &messages {
        writer.append(&msg.key, msg.shard, Some(msg.sequence), msg.time_ms, &msg.payload, &mut out).unwrap();
    }
    writer.end(time_ms, &mut out).unwrap();
    assert!(out == file, "not byte for byte the same");
}
