//! `csv` and `tsv`: each row is a record, as a JSON object of its columns.
//!
//! ```text
//!   id;qty;at            {"id":"a","qty":3,"at":"2026-01-02T00:00:00.000Z"}      delimiter: ";"
//!   a;3;02.01.2026  <->  {"id":"b","qty":null,"at":null}                          types: { qty: int, at: 'time(%d.%m.%Y)' }
//!   b;;                                                                           null: [""]
//! ```

mod decode;
mod encode;
mod options;
mod types;

use std::sync::Arc;

use millstream_core::{Codec, Decoder, Encoder, Form, Result};

pub use options::CsvOptions;

use self::{decode::CsvDecoder, encode::CsvEncoder, options::Dialect};

#[derive(Debug)]
pub(crate) struct Csv(Arc<Dialect>);

impl Csv {
    pub(crate) fn new(options: &CsvOptions, delimiter: u8) -> Result<Self> {
        Dialect::new(options, delimiter).map(Arc::new).map(Csv)
    }
}

impl Codec for Csv {
    fn form(&self) -> Form {
        Form::Json
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(CsvDecoder::new(self.0.clone()))
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(CsvEncoder::new(self.0.clone()))
    }
}
