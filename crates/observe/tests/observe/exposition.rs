//! A reader of Prometheus' text format that is as strict as its specification, and what it found wrong would be refused.

use std::collections::{BTreeMap, BTreeSet};

pub(crate) type Labels = BTreeMap<String, String>;

/// All samples of a text, by metric.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    types: BTreeMap<String, String>,
    helps: BTreeSet<String>,
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Exposition {
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends");
        let mut found = Exposition::default();
        let mut current = String::new();
        for line in text.lines() {
            let at = || format!("in line `{line}`");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && found.helps.insert(name.to_owned()), "one help each {}", at());
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "type behind help {}", at());
                assert!(["counter", "gauge"].contains(&kind), "{}", at());
                assert_eq!(kind == "counter", name.ends_with("_total"), "counters end in _total {}", at());
                assert!(found.types.insert(name.to_owned(), kind.to_owned()).is_none(), "one type each {}", at());
            } else {
                let (name, labels, value) = sample(line);
                assert_eq!(name, current, "samples of a metric stand together {}", at());
                let value: f64 = value.parse().unwrap();
                let samples = found.samples.entry(name).or_default();
                assert!(samples.iter().all(|(other, _)| *other != labels), "no sample twice {}", at());
                samples.push((labels, value));
            }
        }
        found.conventions();
        found
    }

    /// Base units, and one prefix.
    fn conventions(&self) {
        for name in self.types.keys() {
            assert!(name.starts_with("millstream_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            for unit in ["_ms", "_ns", "_milliseconds", "_kib", "_percent"] {
                assert!(!name.contains(unit), "{name} is in a base unit");
            }
        }
        assert_eq!(self.types.keys().collect::<Vec<_>>(), self.helps.iter().collect::<Vec<_>>());
    }

    /// The value of the sample that has these labels, and maybe more.
    #[track_caller]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let all = self.samples.get(name).unwrap_or_else(|| panic!("no metric {name} in {self:?}"));
        let fits = |found: &&(Labels, f64)| labels.iter().all(|(k, v)| found.0.get(*k).is_some_and(|other| other == v));
        let mut found = all.iter().filter(fits);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} with {labels:?} in {all:?}"));
        assert!(found.next().is_none(), "several {name} with {labels:?}");
        *value
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = (&String, &Labels, f64)> {
        let counters = self.samples.iter().filter(|(name, _)| self.types[*name] == "counter");
        counters.flat_map(|(name, samples)| samples.iter().map(move |(labels, value)| (name, labels, *value)))
    }
}

/// `name{label="value",...} number`
fn sample(line: &str) -> (String, Labels, &str) {
    let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("labels in `{line}`"));
    let mut labels = Labels::new();
    let mut chars = rest.char_indices();
    loop {
        let mut label = String::new();
        for (_, c) in chars.by_ref() {
            match c {
                '=' => break,
                c => label.push(c),
            }
        }
        assert!(
            label.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !label.is_empty(),
            "`{label}` in `{line}`"
        );
        assert_eq!(chars.next().map(|(_, c)| c), Some('"'), "{line}");
        let mut value = String::new();
        loop {
            match chars.next().map(|(_, c)| c) {
                Some('"') => break,
                Some('\\') => value.push(match chars.next().map(|(_, c)| c) {
                    Some('n') => '\n',
                    Some(c @ ('\\' | '"')) => c,
                    other => panic!("escape {other:?} in `{line}`"),
                }),
                Some(c) => value.push(c),
                None => panic!("open quotes in `{line}`"),
            }
        }
        assert!(labels.insert(label, value).is_none(), "{line}");
        match chars.next() {
            Some((_, ',')) => {}
            Some((at, '}')) => return (name.to_owned(), labels, rest[at + 1..].strip_prefix(' ').unwrap()),
            other => panic!("{other:?} in `{line}`"),
        }
    }
}
