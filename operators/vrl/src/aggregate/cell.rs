//! What is kept for one key: the state of each function.

use millstream_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use vrl::value::Value;

use super::function::Kind;
use crate::{fault, json, metadata::text_of};

/// The state of one key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Group {
    /// How many keys had been seen before this one: the order of the results.
    pub(super) first: u64,
    /// Records of this key.
    pub(super) count: u64,
    /// States of the functions that have an argument, in their order.
    #[serde(default)]
    pub(super) cells: Vec<Cell>,
}

/// The state of one function of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cell {
    /// Of `sum` and `mean`. Integers are summed exactly, apart from other numbers.
    Sum {
        /// Sum of the integers.
        #[serde(with = "exact")]
        integers: i128,
        /// Sum of the other numbers, as far as there are any.
        others: Option<f64>,
    },
    /// Of `min` and `max`.
    Best(Best),
}

/// The smallest or largest value so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Best {
    Integer(i64),
    Number(f64),
    Text(String),
}

impl Cell {
    /// The state of a function after its first value.
    pub(super) fn first(kind: Kind, value: &Value) -> Result<Self> {
        match kind {
            Kind::Min | Kind::Max => Best::of(kind, value).map(Cell::Best),
            Kind::Count | Kind::Sum | Kind::Mean => {
                let mut cell = Cell::Sum { integers: 0, others: None };
                cell.add(kind, value)?;
                Ok(cell)
            }
        }
    }

    /// Whether it is the state of such a function.
    pub(super) fn fits(&self, kind: Kind) -> bool {
        match self {
            Cell::Sum { .. } => matches!(kind, Kind::Sum | Kind::Mean),
            Cell::Best(_) => matches!(kind, Kind::Min | Kind::Max),
        }
    }

    /// Takes one more value in. After an error the state must not be used.
    pub(super) fn add(&mut self, kind: Kind, value: &Value) -> Result<()> {
        match self {
            Cell::Sum { integers, others } => match value {
                Value::Integer(number) => {
                    let sum = integers.checked_add(i128::from(*number));
                    *integers = sum.ok_or_else(|| Error::new(ErrorKind::Data, "the sum has more than 128 bits"))?;
                }
                Value::Float(number) => {
                    let sum = others.unwrap_or_default() + number.into_inner();
                    if !sum.is_finite() {
                        return Err(Error::new(ErrorKind::Data, "the sum is beyond all bounds"));
                    }
                    *others = Some(sum);
                }
                other => return Err(unfit(kind, other, "a number")),
            },
            Cell::Best(best) => {
                let new = Best::of(kind, value)?;
                let order = best.compare(&new).ok_or_else(|| unfit(kind, value, "of the kind of the values before"))?;
                let better = if kind == Kind::Min { order.is_gt() } else { order.is_lt() };
                if better {
                    *best = new;
                }
            }
        }
        Ok(())
    }

    /// Appends what the function gives for `count` records, as JSON.
    pub(super) fn write(&self, kind: Kind, count: u64, out: &mut Vec<u8>) {
        match self {
            Cell::Sum { integers, others } if kind == Kind::Mean => {
                // Sums of integers beyond 53 bits lose their last digits here, which a mean does not have anyway.
                let sum = *integers as f64 + others.unwrap_or_default();
                json::write_value(out, &Value::from_f64_or_zero(sum / count as f64), None);
            }
            Cell::Sum { integers, others: None } => out.extend_from_slice(integers.to_string().as_bytes()),
            Cell::Sum { integers, others: Some(others) } => {
                json::write_value(out, &Value::from_f64_or_zero(*integers as f64 + others), None);
            }
            Cell::Best(Best::Integer(number)) => json::write_value(out, &Value::Integer(*number), None),
            Cell::Best(Best::Number(number)) => json::write_value(out, &Value::from_f64_or_zero(*number), None),
            Cell::Best(Best::Text(text)) => json::write_value(out, &Value::from(text.as_str()), None),
        }
    }
}

impl Best {
    fn of(kind: Kind, value: &Value) -> Result<Self> {
        match value {
            Value::Integer(number) => Ok(Best::Integer(*number)),
            Value::Float(number) => Ok(Best::Number(number.into_inner())),
            // As text, times of one precision have their order.
            Value::Bytes(_) | Value::String(_) | Value::Timestamp(_) => {
                let text = text_of(value).unwrap_or_default();
                Ok(Best::Text(String::from_utf8_lossy(&text).into_owned()))
            }
            other => Err(unfit(kind, other, "a number, text or time")),
        }
    }

    fn compare(&self, other: &Best) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Best::Integer(one), Best::Integer(other)) => Some(one.cmp(other)),
            (Best::Integer(one), Best::Number(other)) => (*one as f64).partial_cmp(other),
            (Best::Number(one), Best::Integer(other)) => one.partial_cmp(&(*other as f64)),
            (Best::Number(one), Best::Number(other)) => one.partial_cmp(other),
            (Best::Text(one), Best::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

fn unfit(kind: Kind, value: &Value, wanted: &str) -> Error {
    let name = format!("{kind:?}").to_lowercase();
    let said = match value {
        Value::Null => format!("there is nothing to compute `{name}` of: the value is missing"),
        value => format!("`{name}` cannot take {}, which is not {wanted}", fault::shown(value)),
    };
    Error::new(ErrorKind::Data, said)
        .hint("leave such records out by a `filter` in front, or convert them: `to_float(.amount)`")
}

/// Integers of 128 bits as decimal text, which every reader of MessagePack understands.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
