//! A yes or no for each record, and the rows of those.

use millstream_core::Error;

use super::rows::View;

/// The rows for which `keep` says yes; those that panicked are not among them.
pub(crate) fn kept<T>(view: View<'_, T>, keep: impl Fn(&T) -> bool) -> (Vec<u32>, Vec<(u32, Error)>) {
    let (answers, failed) = asked(view, keep);
    (rows_of(&answers), failed)
}

/// The rows for which `keep` says yes and those for which it says no; those that panicked are in neither.
pub(crate) fn partition<T>(view: View<'_, T>, keep: impl Fn(&T) -> bool) -> (Vec<u32>, Vec<u32>, Vec<(u32, Error)>) {
    let (mut answers, failed) = asked(view, keep);
    let yes = rows_of(&answers);
    answers.iter_mut().for_each(|answer| *answer = !*answer);
    // An answer for each row, those that panicked included.
    failed.iter().for_each(|(row, _)| answers[*row as usize] = false);
    (yes, rows_of(&answers), failed)
}

/// What `keep` says of each row, no where it panicked; with the rows that did.
fn asked<T>(view: View<'_, T>, keep: impl Fn(&T) -> bool) -> (Vec<bool>, Vec<(u32, Error)>) {
    let (mut answers, failed) = view.collect(keep);
    // Rising rows, so that each finds those before it in their places.
    failed.iter().for_each(|(row, _)| answers.insert(*row as usize, false));
    (answers, failed)
}

/// The rows whose answer is yes.
///
/// Eight answers at once and without a branch to guess wrong: a multiplication squeezes them into a byte, and a table tells
/// which rows that byte stands for.
fn rows_of(answers: &[bool]) -> Vec<u32> {
    /// Answer `i` is bit `8 i`; the product has it at bit `56 + i`, and no two terms meet.
    const SQUEEZE: u64 = 0x0102_0408_1020_4080;
    let mut rows = Vec::with_capacity(answers.len() + 8);
    let (eights, rest) = answers.as_chunks::<8>();
    let mut first = 0;
    for eight in eights {
        let byte = (u64::from_le_bytes(eight.map(u8::from)).wrapping_mul(SQUEEZE) >> 56) as u8;
        let (offsets, count) = &OF_BYTE[usize::from(byte)];
        // All eight are written, those beyond the count are taken back.
        let end = rows.len() + *count as usize;
        rows.extend_from_slice(&offsets.map(|offset| first + offset));
        rows.truncate(end);
        first += 8;
    }
    rows.extend((first..).zip(rest).filter(|(_, answer)| **answer).map(|(row, _)| row));
    rows
}

/// For each byte: which bits are set, and how many.
static OF_BYTE: [([u32; 8], u32); 256] = {
    let mut table = [([0; 8], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                let (offsets, count) = &mut table[byte];
                offsets[*count as usize] = bit;
                *count += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_panicked_are_on_no_side() {
        let values = [1u64, 2, 3, 4, 5];
        let (yes, no, failed) = partition(View::All(&values), |value| {
            assert!(*value != 1 && *value != 4, "no");
            value % 2 == 1
        });
        assert_eq!((yes, no, failed.len()), (vec![2, 4], vec![1], 2));
        let (yes, failed) = kept(View::Picked(&values, &[2, 3, 1, 4]), |value| {
            assert!(*value != 4, "no");
            value % 2 == 1
        });
        assert_eq!((yes, failed.len()), (vec![0, 3], 1));
    }

    #[test]
    fn rows_of_answers_are_those_that_say_yes() {
        for len in [0, 1, 7, 8, 9, 16, 1000] {
            for seed in 1..=255usize {
                let answers: Vec<bool> = (0..len).map(|row| (seed * (row / 8 + 1)) >> (row % 8) & 1 == 1).collect();
                let wanted: Vec<u32> = (0..len as u32).filter(|row| answers[*row as usize]).collect();
                assert_eq!(rows_of(&answers), wanted);
            }
        }
    }
}
