//! Options of `csv` and `tsv`, as written and as checked.

use std::collections::BTreeMap;

use millstream_core::{Error, ErrorKind, Result, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::ColumnType;
use crate::line::RECORD_BYTES_MAX;

/// Each row is a JSON object, its fields in the order of the columns. Fields may be quoted as in RFC 4180; blank lines are skipped;
/// a row with too few or too many fields is an error.
///
/// Written: the columns are those of the first record, or `columns`; a nested value is written as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsvOptions {
    /// Whether the first row holds the names of the columns.
    pub header: bool,
    /// What stands between columns: one character. Default `,`, in `tsv` a tab.
    pub delimiter: Option<String>,
    /// Names of the columns. Default: the header's; without a header `column_1`, `column_2` and so on.
    pub columns: Option<Vec<String>>,
    /// What columns hold: `text` (the default), `int`, `float`, `bool`, `time` (RFC 3339) or `time(FORMAT)` as in strftime;
    /// a time without a zone is UTC.
    pub types: BTreeMap<String, String>,
    /// Fields that stand for null. The first one is written for it.
    pub null: Vec<String>,
    /// Whether fields may be quoted. Without, a value that would need quotes cannot be written.
    pub quotes: bool,
    /// Longest row that is read. A longer one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            header: true,
            delimiter: None,
            columns: None,
            types: BTreeMap::new(),
            null: Vec::new(),
            quotes: true,
            bytes_max: Size(RECORD_BYTES_MAX),
        }
    }
}

/// The options, checked.
#[derive(Debug)]
pub(super) struct Dialect {
    pub(super) header: bool,
    pub(super) delimiter: u8,
    pub(super) columns: Option<Vec<String>>,
    pub(super) types: BTreeMap<String, ColumnType>,
    pub(super) null: Vec<String>,
    pub(super) quotes: bool,
    pub(super) bytes_max: u64,
}

impl Dialect {
    pub(super) fn new(options: &CsvOptions, default_delimiter: u8) -> Result<Self> {
        let delimiter = match options.delimiter.as_deref().map(str::as_bytes) {
            None => default_delimiter,
            Some(&[byte]) if byte.is_ascii() && !b"\"\r\n".contains(&byte) => byte,
            Some(_) => {
                return Err(Error::new(
                    ErrorKind::Option,
                    "a delimiter is one ASCII character, no quote and no line break",
                )
                .hint("for example `\";\"` or `\"\\t\"`")
                .within("delimiter"));
            }
        };
        let mut types = BTreeMap::new();
        for (column, name) in &options.types {
            let parsed = ColumnType::parse(name).map_err(|error| error.within(column).within("types"))?;
            if let Some(columns) = options.columns.as_ref().filter(|columns| !columns.contains(column)) {
                return Err(Error::new(ErrorKind::Option, format!("there is no column `{column}`"))
                    .hint(format!("known are: {}", columns.join(", ")))
                    .within(column)
                    .within("types"));
            }
            types.insert(column.clone(), parsed);
        }
        Ok(Dialect {
            header: options.header,
            delimiter,
            columns: options.columns.clone(),
            types,
            null: options.null.clone(),
            quotes: options.quotes,
            bytes_max: options.bytes_max.0,
        })
    }
}
