//! What can be had of a damaged buffer: all but what is damaged, and after a repair also by the pipeline.

use std::path::Path;

use millstream_buffer::{inspect::Seen, repair};
use millstream_core::ErrorKind;

use super::*;

/// Offsets in the file at which each of so many blocks of ten records begins, and where the last one ends.
fn blocks(place: &Place, count: usize) -> (PathBuf, Vec<usize>) {
    let mut ends = vec![64];
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for i in 0..count {
            writer.write(numbers(i * 10..i * 10 + 10)).await;
            writer.commit().await;
            ends.push(fs::metadata(place.segments().remove(0)).unwrap().len() as usize);
        }
    });
    (place.segments().remove(0), ends)
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[byte] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// All values that can still be read, and the places that cannot.
fn readable(folder: &Path) -> (Vec<String>, usize) {
    let (mut values, mut places) = (Vec::new(), 0);
    inspect::read(folder, |seen| {
        match seen {
            Seen::Records(batch, _) => {
                values.extend(batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned()));
            }
            Seen::Damage(_) => places += 1,
        }
        Ok(true)
    })
    .unwrap();
    (values, places)
}

/// The values of all blocks but these.
fn without(count: usize, lost: &[usize]) -> Vec<String> {
    (0..count).filter(|block| !lost.contains(block)).flat_map(|block| numbers(block * 10..block * 10 + 10)).collect()
}

/// Everything that a pipeline gets, from a position on; and what it is told of as dropped.
fn delivered(place: &Place, position: Option<Position>) -> (Vec<String>, u64) {
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut source = reader(&buffer, position).await;
        buffer.finish();
        let values = rest(&mut source).await;
        (values, buffer.figures().dropped)
    })
}

#[test]
fn what_lies_behind_damage_is_read_wherever_it_is_and_a_repair_costs_only_that_block() {
    let place = Place::new();
    let (path, ends) = blocks(&place, 3);
    let good = fs::read(&path).unwrap();
    // A step that hits every field of the headers, and some of everything else.
    for byte in (64..good.len()).step_by(3) {
        let block = ends.windows(2).position(|pair| (pair[0]..pair[1]).contains(&byte)).unwrap();
        flip(&path, byte);
        let verified = inspect::verify(&place.folder()).unwrap();
        let damage = &verified.damages[0];
        assert_eq!((verified.damages.len(), verified.damaged_records, verified.records), (1, 10, 20), "byte {byte}");
        assert_eq!((damage.byte, damage.bytes), (ends[block] as u64, (ends[block + 1] - ends[block]) as u64));
        assert_eq!(readable(&place.folder()), (without(3, &[block]), 1), "byte {byte}");
        let repaired = repair(&place.folder()).unwrap();
        assert_eq!((repaired.lost_records, &repaired.damages), (10, &verified.damages), "byte {byte}");
        assert_eq!(repair(&place.folder()).unwrap().damages, [], "it is done once");
        let verified = inspect::verify(&place.folder()).unwrap();
        assert_eq!((verified.damages.len(), verified.records, verified.lost_records), (0, 20, 10));
        assert_eq!(readable(&place.folder()), (without(3, &[block]), 0));
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn after_a_repair_the_rest_is_delivered_and_the_lost_are_counted_as_dropped() {
    for lost in [vec![0], vec![1], vec![3], vec![1, 2], vec![0, 2], vec![0, 1, 2, 3]] {
        let place = Place::new();
        let (path, ends) = blocks(&place, 4);
        lost.iter().for_each(|&block| flip(&path, ends[block] + 40));
        assert_eq!(repair(&place.folder()).unwrap().lost_records, 10 * lost.len() as u64, "{lost:?}");
        let info = inspect::info(&place.folder()).unwrap();
        assert_eq!(delivered(&place, None), (without(4, &lost), 10 * lost.len() as u64), "{lost:?}");
        assert_eq!(info.records, 40, "the lost ones go with those before them");
    }
}

#[test]
fn a_position_inside_of_what_was_cut_out_goes_on_behind_it() {
    let place = Place::new();
    let (path, ends) = blocks(&place, 4);
    let position = run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut source = reader(&buffer, None).await;
        next(&mut source).await;
        next(&mut source).await;
        let position = source.position().unwrap();
        source.commit(&position, None).await.unwrap();
        position
    });
    // One that is delivered, and one that is not: one gap.
    flip(&path, ends[1] + 40);
    flip(&path, ends[2] + 40);
    repair(&place.folder()).unwrap();
    assert_eq!(delivered(&place, Some(position)), (without(4, &[0, 1, 2]), 10));
}

#[test]
fn a_segment_that_is_cut_short_gets_a_gap_and_is_written_on() {
    let place = Place::new();
    let (path, ends) = blocks(&place, 3);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(ends[2] as u64 + 7).unwrap();
    let verified = inspect::verify(&place.folder()).unwrap();
    assert_eq!((verified.records, verified.damaged_records), (20, 10), "{verified:?}");
    let repaired = repair(&place.folder()).unwrap();
    assert_eq!((repaired.damages.len(), repaired.lost_records), (1, 10), "{repaired:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), ends[3] as u64);
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        writer.write(numbers(30..40)).await;
        writer.commit().await;
    });
    assert_eq!(delivered(&place, None), (without(4, &[2]), 10));
}

#[test]
fn a_gap_at_the_end_of_a_full_buffer_holds_up_no_writer() {
    let place = Place::new();
    // Each with a key as long.
    let values = |at: usize| (0..4).map(move |i| format!("{at:02}{i}{}", "x".repeat(12_000)));
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        for at in 0..10 {
            writer.write(values(at)).await;
            writer.commit().await;
        }
    });
    let last = place.segments().pop().unwrap();
    let length = fs::metadata(&last).unwrap().len() as usize;
    flip(&last, length - 1);
    let repaired = repair(&place.folder()).unwrap();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let mut writer = Writer::open(&buffer, Vec::new()).await;
        let mut source = reader(&buffer, None).await;
        let mut seen = 0;
        while seen + (repaired.lost_records as usize) < 40 {
            seen += next(&mut source).await.unwrap().len();
        }
        source.commit(&source.position().unwrap(), None).await.unwrap();
        // Nothing but the gap is left, and nobody commits it. A writer of more than there is room for must not wait for that.
        let writes = async {
            for at in 10..22 {
                writer.write(values(at)).await;
            }
            writer.commit().await;
        };
        tokio::join!(writes, async {
            while seen + (repaired.lost_records as usize) < 88 {
                seen += next(&mut source).await.unwrap().len();
            }
        });
    });
}

#[test]
fn a_buffer_that_runs_is_not_repaired() {
    let place = Place::new();
    run(async {
        let buffer = place.buffer(WhenFull::Block);
        let _writer = Writer::open(&buffer, Vec::new()).await;
        let folder = place.folder();
        let refused = tokio::task::spawn_blocking(move || repair(&folder)).await.unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Locked);
    });
    assert_eq!(repair(&place.folder().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
}
