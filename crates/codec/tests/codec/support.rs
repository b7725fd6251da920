//! Driving codecs the way sources and sinks do.
#![allow(unreachable_pub)]

use bytes::Bytes;
use millstream_codec::CodecOptions;
use millstream_core::{
    Batch, BatchBuilder, Body, Codec, Envelope, Error, Form, Frames, Sequences, ShardKey, Shards, Times, Told,
};

/// A record as it came out: its value, or the error and what was kept.
pub type Decoded = Result<Vec<u8>, (Error, Vec<u8>)>;

pub fn codec(options: serde_json::Value) -> std::sync::Arc<dyn Codec> {
    millstream_core::parse_options::<CodecOptions>(&options).unwrap().plan().unwrap()
}

pub fn batch(body: Body) -> Batch {
    let envelope = Envelope {
        shards: Shards::Same(ShardKey::new("t", 0)),
        sequences: Sequences::Run(0),
        times: Times::Absent,
        keys: None,
        headers: None,
        told: Told::default(),
    };
    Batch::new(envelope, body)
}

/// Feeds `input` in blocks of these sizes (repeated), giving unfinished rests again.
pub fn decode(codec: &dyn Codec, input: &[u8], sizes: &[usize]) -> Vec<Decoded> {
    let (mut decoder, mut frames) = (codec.decoder(), Frames::default());
    let (mut result, mut rest, mut at, mut turn) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        let size = sizes[turn % sizes.len()].max(1).min(input.len() - at);
        turn += 1;
        rest.extend_from_slice(&input[at..at + size]);
        at += size;
        let end = at == input.len();
        let mut block = Bytes::from(std::mem::take(&mut rest));
        loop {
            let done = decoder.decode(&block, end, &mut frames);
            assert!(done <= block.len());
            if done == 0 && frames.is_empty() {
                break;
            }
            let (body, failed) = frames.take(&block.slice(..done), codec.form());
            block = block.slice(done..);
            let mut failed = failed.into_iter().peekable();
            for (i, record) in batch(body).iter().enumerate() {
                let value = record.value().unwrap().to_vec();
                result.push(match failed.next_if(|(row, _)| *row as usize == i) {
                    Some((_, error)) => Err((error, value)),
                    None => Ok(value),
                });
            }
            assert!(failed.next().is_none());
        }
        rest = block.to_vec();
        if end {
            assert!(rest.is_empty(), "left over: {rest:?}");
            return result;
        }
    }
}

pub fn texts(decoded: Vec<Decoded>) -> Vec<String> {
    decoded.into_iter().map(|record| String::from_utf8(record.unwrap()).unwrap()).collect()
}

pub fn values(values: &[(&[u8], Form)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (i, (value, form)) in values.iter().enumerate() {
        builder.push_value(&ShardKey::new("t", 0), i as u128, None, *form, None, Some(value));
    }
    builder.finish()
}

/// What an encoder writes, and the records that it rejected.
pub fn encode(codec: &dyn Codec, batch: &Batch) -> (Vec<u8>, Vec<(u32, Error)>) {
    let (mut encoder, mut out, mut ends, mut rejected) = (codec.encoder(), Vec::new(), Vec::new(), Vec::new());
    encoder.preamble(batch, &mut out);
    encoder.encode(batch, &mut out, &mut ends, &mut rejected);
    assert_eq!(ends.len() + rejected.len(), batch.len());
    assert!(ends.windows(2).all(|pair| pair[0] <= pair[1]) && ends.last().is_none_or(|end| *end == out.len()));
    (out, rejected)
}
