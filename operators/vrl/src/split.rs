//! `split`: one record for each item of an array, or for each piece of a text.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use millstream_core::{
    Batch, Component, Error, ErrorKind, Form, Output, PlanContext, Planner, Result, Step, StepPlan, Transform,
    each_row, parse_options,
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;
use vrl::{path::OwnedValuePath, value::Value};

use crate::{
    fault, json,
    metadata::text_of,
    named::Expression,
    needs::{Needs, Wanted},
    program::{Program, Shape},
    value::{Row, Values, take},
};

/// The component.
pub(crate) const COMPONENT: Component = Component {
    name: "split",
    summary: "Makes one record of each item of an array, or of each piece of a text.",
    schema,
    planner: Planner::Step(plan),
    schemes: &[],
    from_url: None,
    example: "split: { path: .items }",
};

/// Makes one record of each item of an array, or of each piece of a text. Key, headers and time are those of the record
/// that it is made of. An empty array or text gives no record.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The field with the array or text. Default: the value itself.
    #[serde(default)]
    path: Option<Expression>,
    /// What stands between the pieces of a text, or behind each of them. Without it the value must be an array.
    #[serde(default)]
    separator: Option<String>,
}

fn schema() -> Schema {
    schema_for!(Options)
}

fn plan(options: &serde_json::Value, context: &PlanContext) -> Result<Box<dyn StepPlan>> {
    let options: Options = parse_options(options)?;
    let path = match &options.path {
        None => OwnedValuePath::root(),
        Some(Expression(source)) => field(source, context).map_err(|error| error.within("path"))?,
    };
    if options.separator.as_deref() == Some("") {
        return Err(Error::new(ErrorKind::Option, "the separator is empty").within("separator"));
    }
    if options.separator.is_none() && matches!(context.form, Form::Bytes | Form::Text) {
        let error = Error::new(ErrorKind::Plan, "the values are text, which has no items");
        return Err(error.hint("give a `separator`, or add `codec: json` to the source"));
    }
    let form = if options.separator.is_some() { Form::Text } else { Form::Json };
    let split = Split { needs: Needs::of([&path]), path, separator: options.separator.map(Arc::from) };
    Ok(Box::new(Plan { split, form }))
}

/// The path that an expression is.
fn field(source: &str, context: &PlanContext) -> Result<OwnedValuePath> {
    match Program::expression(source, context)?.shape {
        Shape::Path(path) => Ok(path),
        _ => {
            let error = Error::new(ErrorKind::Syntax, "`path` is not the name of a field").span(0, source.len());
            Err(error.hint("write it as `.items`, and put a `map` in front for anything else"))
        }
    }
}

#[derive(Debug)]
struct Plan {
    split: Split,
    form: Form,
}

impl StepPlan for Plan {
    fn form(&self) -> Form {
        self.form
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(self.split.clone())))
    }
}

#[derive(Clone, Debug)]
struct Split {
    path: OwnedValuePath,
    needs: Needs,
    separator: Option<Arc<str>>,
}

impl Split {
    /// Appends the pieces of a row.
    fn pieces(&self, row: &mut Row, pieces: &mut Vec<Row>) -> Result<()> {
        match &self.separator {
            Some(separator) => {
                let value = row.value(&self.needs)?.get(&self.path).unwrap_or(&Value::Null);
                let (Value::Bytes(_) | Value::String(_)) = value else { return Err(self.wrong(value, "a text")) };
                let text = text_of(value).unwrap_or_default();
                cut(&text, separator.as_bytes(), pieces);
                Ok(())
            }
            None => self.items(row, pieces),
        }
    }

    fn items(&self, row: &mut Row, pieces: &mut Vec<Row>) -> Result<()> {
        let value = row.value(&self.needs)?.get(&self.path).unwrap_or(&Value::Null);
        let Value::Array(items) = value else { return Err(self.wrong(value, "an array")) };
        // As long as nothing was changed there, the items keep the text that they have in the array.
        if row.changes().is_none_or(|changes| changes.spared(&self.path))
            && let Some(raw) = row.json()
            && let Some(texts) = json::find(raw, &self.path).and_then(json::items)
        {
            pieces.extend(texts.zip(items).map(|(text, item)| match item {
                Value::Bytes(bytes) => Row::source(Some(bytes.clone()), Form::Text),
                _ => Row::source(Some(raw.slice_ref(text)), Form::Json),
            }));
            return Ok(());
        }
        if !self.path.segments.is_empty() {
            pieces.extend(items.iter().cloned().map(Row::own));
        } else if let Value::Array(items) = row.take_value(&mut Wanted::new(self.needs.clone()))?.value {
            pieces.extend(items.into_iter().map(Row::own));
        }
        Ok(())
    }

    fn wrong(&self, value: &Value, wanted: &str) -> Error {
        let name = if self.path.segments.is_empty() { "the value".to_owned() } else { format!("`.{}`", self.path) };
        let said = match value {
            Value::Null => format!("{name} is missing"),
            value => format!("{name} is {}, not {wanted}", fault::shown(value)),
        };
        Error::new(ErrorKind::Data, said)
    }
}

/// Appends the pieces between separators; nothing for what is behind the last one, if it is empty.
fn cut(text: &Bytes, separator: &[u8], pieces: &mut Vec<Row>) {
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(separator) {
            pieces.push(Row::source(Some(text.slice(start..at)), Form::Text));
            at += separator.len();
            start = at;
        } else {
            at += 1;
        }
    }
    if start < text.len() {
        pieces.push(Row::source(Some(text.slice(start..)), Form::Text));
    }
}

impl Transform for Split {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let (batch, rows, size) = take(batch);
        let len = rows.len();
        let failed: RefCell<Vec<(usize, Error)>> = RefCell::default();
        let work = RefCell::new((rows, Vec::with_capacity(4 * len), Vec::with_capacity(4 * len)));
        let mut filtered = 0;
        each_row(
            len,
            |at| {
                let (rows, pieces, parents) = &mut *work.borrow_mut();
                let before = pieces.len();
                match self.pieces(&mut rows[at], pieces) {
                    Ok(()) if pieces.len() == before => filtered += 1,
                    Ok(()) => parents.resize(pieces.len(), at as u32),
                    Err(error) => failed.borrow_mut().push((at, error)),
                }
            },
            |at, error| {
                let (_, pieces, parents) = &mut *work.borrow_mut();
                pieces.truncate(parents.len());
                failed.borrow_mut().push((at, error));
            },
        );
        let (mut rows, pieces, parents) = work.into_inner();
        let failed = failed.into_inner();
        let parted = len - failed.len() - filtered;
        out.filtered(filtered);
        out.created(pieces.len() - parted);
        for (at, error) in failed {
            let row = std::mem::take(&mut rows[at]);
            let record = batch.slice(at, at + 1).with_body(Values::new(vec![row], size / len.max(1)).into_body());
            out.fail(&record, 0, error);
        }
        out.emit(0, batch.derive(parents, Values::new(pieces, size).into_body()));
    }
}
