//! Packing and unpacking in any blocks.

use std::io::Read;

use millstream_codec::{Compression, Compressor, Decompressor};
use millstream_core::ErrorKind;
use proptest::prelude::*;

fn pack(compression: Compression, members: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let (mut packer, mut out, mut ends) = (Compressor::new(compression).unwrap(), Vec::new(), Vec::new());
    for member in members {
        for part in member.chunks(100) {
            packer.feed(part, &mut out).unwrap();
        }
        packer.finish_member(&mut out).unwrap();
        ends.push(out.len());
    }
    (out, ends)
}

fn unpack(
    compression: Compression,
    packed: &[u8],
    block: usize,
    room: usize,
) -> millstream_core::Result<(Vec<u8>, Vec<usize>)> {
    let (mut unpacker, mut out, mut ends, mut at) = (Decompressor::new(compression)?, Vec::new(), Vec::new(), 0);
    for part in packed.chunks(block) {
        let mut taken = 0;
        loop {
            let before = out.len();
            let fed = unpacker.feed(&part[taken..], &mut out, room)?;
            taken += fed.taken;
            at += fed.taken;
            assert!(out.len() - before <= room);
            if fed.member_end {
                ends.push(at);
            }
            if taken == part.len() && out.len() - before < room {
                break;
            }
        }
    }
    unpacker.finish()?;
    Ok((out, ends))
}

#[test]
fn other_programs_members_are_read_and_ours_by_them() {
    let (packed, _) = pack(Compression::Gzip, &[b"one".to_vec(), b"two".to_vec()]);
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert_eq!(text, "onetwo");
    let mut builder = flate2::GzBuilder::new()
        .filename("a name")
        .comment("words")
        .extra(vec![1; 300])
        .read(&b"named"[..], flate2::Compression::best());
    let mut packed = Vec::new();
    builder.read_to_end(&mut packed).unwrap();
    packed.extend([0; 20]); // Padding, as tapes leave it.
    assert_eq!(unpack(Compression::Gzip, &packed, 1, 10).unwrap().0, b"named");
    let (packed, _) = pack(Compression::Zstd, &[b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(zstd::decode_all(&packed[..]).unwrap(), b"onetwo");
}

#[test]
fn damage_and_cut_ends_are_errors() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (mut packed, _) = pack(compression, &[vec![b'x'; 5000]]);
        for cut in 1..packed.len() {
            assert!(unpack(compression, &packed[..cut], 64, 64).is_err(), "{compression:?} {cut}");
        }
        let middle = packed.len() / 2;
        packed[middle] ^= 0x55;
        packed.push(1);
        assert_eq!(unpack(compression, &packed, 64, 64).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(unpack(compression, b"plain text", 64, 64).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(unpack(compression, b"", 64, 64).unwrap().0, b"");
    }
}

#[test]
fn flushed_bytes_can_be_read_before_the_member_ends() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let (mut packer, mut packed) = (Compressor::new(compression).unwrap(), Vec::new());
        packer.feed(b"now", &mut packed).unwrap();
        packer.flush(&mut packed).unwrap();
        let mut plain = Vec::new();
        let mut unpacker = Decompressor::new(compression).unwrap();
        unpacker.feed(&packed, &mut plain, 100).unwrap();
        assert_eq!(plain, b"now");
        assert!(unpacker.finish().is_err());
    }
}

#[test]
fn names_tell() {
    for (name, compression) in
        [("a.gz", Compression::Gzip), ("a.csv.ZST", Compression::Zstd), ("gz", Compression::None)]
    {
        assert_eq!(Compression::for_path(name.as_ref()), compression);
    }
}

proptest! {
    #[test]
    fn any_members_come_out_identical(
        members in prop::collection::vec(prop::collection::vec(0u8..4, 1..3000), 1..4),
        block in 1usize..500, room in 1usize..2000,
    ) {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let (packed, ends) = pack(compression, &members);
            let (plain, seen) = unpack(compression, &packed, block, room).unwrap();
            prop_assert_eq!(&plain, &members.concat());
            prop_assert_eq!(&seen, &ends);
            // Every member's end is a place to begin.
            for (i, end) in ends.iter().enumerate() {
                prop_assert_eq!(unpack(compression, &packed[*end..], block, room).unwrap().0, members[i + 1..].concat());
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..300), block in 1usize..50) {
        for (compression, magic) in [(Compression::Gzip, &[0x1f, 0x8b, 8][..]), (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd])] {
            let _ = unpack(compression, &[magic, &input].concat(), block, 1000);
        }
    }
}
