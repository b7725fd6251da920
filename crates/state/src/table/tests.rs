use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn keys() -> impl Strategy<Value = Vec<u8>> {
    // Few enough to meet again; short and long ones.
    prop_oneof![
        prop::collection::vec(0u8..3, 0..5),
        (0u8..20).prop_map(|i| vec![i; 16]),
        (0u8..20).prop_map(|i| vec![i; 17 + usize::from(i)]),
    ]
}

#[derive(Clone, Debug)]
enum Act {
    Add(Vec<u8>, u64),
    Remove(Vec<u8>),
    Save,
    Restart,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (keys(), any::<u64>()).prop_map(|(key, by)| Act::Add(key, by)),
        4 => keys().prop_map(Act::Remove),
        1 => Just(Act::Save),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 0..300)
}

fn save(table: &mut KeyedTable<u64>, saved: &mut BTreeMap<Vec<u8>, Bytes>) {
    let changes = table.changes().unwrap();
    let mut told = std::collections::HashSet::new();
    for change in changes {
        assert_eq!(change.group, group(&change.key));
        assert!(told.insert(change.key.clone()), "a key is told once");
        match change.value {
            Some(value) => drop(saved.insert(change.key.to_vec(), value)),
            None => assert!(saved.remove(&change.key[..]).is_some(), "only stored keys are told as removed"),
        }
    }
}

proptest! {
    #[test]
    fn a_table_is_a_map_and_its_changes_rebuild_it(acts in acts()) {
        let mut table = KeyedTable::<u64>::new();
        let (mut model, mut saved) = (BTreeMap::<Vec<u8>, u64>::new(), BTreeMap::new());
        for act in acts {
            match act {
                Act::Add(key, by) => {
                    let value = table.entry(&key);
                    *value = value.wrapping_add(by);
                    let expected = model.entry(key).or_default();
                    *expected = expected.wrapping_add(by);
                }
                Act::Remove(key) => prop_assert_eq!(table.remove(&key), model.remove(&key)),
                Act::Save => save(&mut table, &mut saved),
                Act::Restart => {
                    save(&mut table, &mut saved);
                    let all = saved.iter().map(|(key, value)| Change {
                        group: group(key), key: key.clone().into(), value: Some(value.clone()),
                    });
                    table = KeyedTable::new();
                    table.restore(all.collect()).unwrap();
                    prop_assert!(table.changes().unwrap().is_empty());
                }
            }
            prop_assert_eq!(table.len(), model.len());
        }
        let found: BTreeMap<Vec<u8>, u64> = table.iter().map(|(key, value)| (key.to_vec(), *value)).collect();
        prop_assert_eq!(&found, &model);
        for (key, value) in &model {
            prop_assert_eq!(table.get(key), Some(value));
        }
    }
}

#[test]
fn iteration_is_in_the_order_of_insertion() {
    let mut table = KeyedTable::<u64>::new();
    for i in 0..1000u64 {
        *table.entry(i.to_string().as_bytes()) = i;
    }
    table.retain(|_, value| value % 3 == 0);
    let values: Vec<u64> = table.iter().map(|(_, value)| *value).collect();
    assert_eq!(values, (0..1000).filter(|i| i % 3 == 0).collect::<Vec<_>>());
    assert_eq!(table.slots.len(), table.len() + table.slots.iter().filter(|slot| slot.state.hole).count());
    assert!(table.slots.len() <= 2 * table.len() + 1);
}

#[test]
fn only_what_changed_is_told() {
    let mut table = KeyedTable::<u64>::new();
    *table.entry(b"a") = 1;
    *table.entry(b"b") = 2;
    assert_eq!(table.changes().unwrap().len(), 2);
    assert!(table.changes().unwrap().is_empty());
    *table.get_mut(b"b").unwrap() = 3;
    let changes = table.changes().unwrap();
    assert_eq!(changes.len(), 1);
    assert_eq!(&changes[0].key[..], b"b");
    // Made and gone between two barriers: the store never hears of it.
    table.entry(b"c");
    table.remove(b"c");
    assert!(table.changes().unwrap().is_empty());
}

#[test]
fn state_of_another_type_is_an_error() {
    let mut table = KeyedTable::<String>::new();
    *table.entry(b"a") = "text".into();
    let error = KeyedTable::<u64>::new().restore(table.changes().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}

#[test]
fn removed_long_keys_give_their_bytes_back() {
    let mut table = KeyedTable::<u64>::new();
    for i in 0..100_000u64 {
        table.entry(format!("a key of more than sixteen bytes {i}").as_bytes());
        if i >= 10 {
            table.remove(format!("a key of more than sixteen bytes {}", i - 10).as_bytes());
        }
        if i % 1000 == 0 {
            table.changes().unwrap();
        }
    }
    assert_eq!(table.len(), 10);
    assert!(table.bytes() < 200_000, "{}", table.bytes());
}

/// Folds the records of batches, each a key and what is added, of which some panic when they have added it; answers with how
/// many panicked.
fn fold_all<V: Default + Clone>(
    table: &mut KeyedTable<V>,
    batches: &[Vec<(Vec<u8>, u64, bool)>],
    add: fn(&mut V, u64),
) -> usize {
    let mut panicked = 0;
    for batch in batches {
        let key = |row: usize| batch.get(row).map(|(key, ..)| &key[..]);
        let again = |value: &mut V, row: usize| add(value, batch[row].1);
        let mut folds = table.fold();
        let handle = |row: usize| {
            if folds.is_torn() {
                assert!(folds.mend(key, again).is_empty());
            }
            let (key, by, panics) = &batch[row];
            add(folds.entry(row, key), *by);
            if *panics {
                // Without the hook of panics, which would write.
                std::panic::resume_unwind(Box::new(()));
            }
            folds.done();
        };
        millstream_core::each_row(batch.len(), handle, |_, _| panicked += 1);
        assert!(folds.mend(key, again).is_empty());
    }
    panicked
}

proptest! {
    #[test]
    fn what_a_row_changed_that_panics_is_taken_back(
        batches in prop::collection::vec(prop::collection::vec((keys(), 1u64..100, prop::bool::weighted(0.3)), 0..40), 0..8),
    ) {
        let mut model = BTreeMap::<Vec<u8>, Vec<u64>>::new();
        for (key, by, _) in batches.iter().flatten().filter(|(.., panics)| !panics) {
            model.entry(key.clone()).or_default().push(*by);
        }
        let panics = batches.iter().flatten().filter(|(.., panics)| *panics).count();
        let mut all = KeyedTable::<Vec<u64>>::new();
        prop_assert_eq!(fold_all(&mut all, &batches, |value, by| value.push(by)), panics);
        let found: BTreeMap<_, _> = all.iter().map(|(key, value)| (key.to_vec(), value.clone())).collect();
        prop_assert_eq!(&found, &model);
        // The same of values that are copied.
        let mut sums = KeyedTable::<u64>::new();
        prop_assert_eq!(fold_all(&mut sums, &batches, |value, by| *value += by), panics);
        let found: BTreeMap<_, u64> = sums.iter().map(|(key, value)| (key.to_vec(), *value)).collect();
        prop_assert_eq!(found, model.into_iter().map(|(key, all)| (key, all.iter().sum())).collect::<BTreeMap<_, _>>());
    }
}

#[test]
fn a_row_that_panics_only_when_it_is_folded_again_has_changed_nothing() {
    let mut table = KeyedTable::<Vec<u64>>::new();
    let mut folds = table.fold();
    for row in 0..3 {
        folds.entry(row, b"a").push(row as u64);
        folds.done();
    }
    folds.entry(3, b"a").push(3);
    let failed = folds.mend(
        |_| Some(b"a"),
        |value, row| {
            value.push(row as u64);
            assert!(row != 1, "not again");
        },
    );
    assert_eq!(failed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1]);
    drop(folds);
    assert_eq!(table.get(b"a"), Some(&vec![0, 2]));
}

#[test]
fn keys_that_come_and_panic_leave_no_memory_behind() {
    let mut table = KeyedTable::<Vec<u64>>::new();
    for i in 0..10_000u64 {
        let key = format!("a key of more than sixteen bytes {i}");
        let mut folds = table.fold();
        folds.entry(0, key.as_bytes()).push(i);
        assert!(folds.mend(|_| None, |_, _| {}).is_empty());
    }
    assert!(table.is_empty() && table.changes().unwrap().is_empty());
    assert!(table.bytes() < 100_000, "{}", table.bytes());
}
