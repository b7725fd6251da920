//! Errors of programs, told in terms of the record: which field is missing, or is what.

use vrl::{
    parser::ast::Opcode,
    path::{OwnedTargetPath, PathPrefix},
    value::Value,
};

use millstream_core::{Error, ErrorKind};

use crate::{inspect::Facts, json};

/// Longest part of a value that a message shows.
const SHOWN_MAX: usize = 60;

/// The data error for what VRL says happened with `value`.
pub(crate) fn explain(facts: &Facts, value: &Value, said: &str) -> Error {
    let get = |path: &OwnedTargetPath| match path.prefix {
        PathPrefix::Event => Some(value.get(&path.path).unwrap_or(&Value::Null)),
        PathPrefix::Metadata => None,
    };
    let (call, said) = innermost_call(said);
    let call = call
        .and_then(|(start, end)| facts.calls.iter().find(|call| call.span.start() == start && call.span.end() == end));
    let cause = Said(said.to_owned());
    if let Some(call) = call {
        let of_record: Vec<_> = call.arguments.iter().filter_map(|path| Some((path, get(path)?))).collect();
        let blamed = match of_record.as_slice() {
            [one] => Some(*one),
            several => several.iter().find(|(_, value)| value.is_null()).copied(),
        };
        let error = match blamed {
            Some((path, value)) => about(path, value),
            None => Error::new(ErrorKind::Data, format!("`{}` failed", call.name)),
        };
        return error.caused_by(cause).span(call.span.start(), call.span.end());
    }
    for operation in facts.operations.iter().filter(|operation| needs_kinds(operation.opcode)) {
        for path in &operation.operands {
            let Some(value) = get(path) else { continue };
            let at_fault = value.is_null() && said.contains("null") || json::beyond_64_bits(value).is_some();
            if at_fault {
                let span = operation.span;
                return about(path, value).caused_by(cause).span(span.start(), span.end());
            }
        }
    }
    let said = said.replace("can't calculate remainder of type", "cannot compare or divide");
    Error::new(ErrorKind::Data, said)
}

/// What is the matter with a part of the record.
fn about(path: &OwnedTargetPath, value: &Value) -> Error {
    match value {
        Value::Null => Error::new(ErrorKind::Data, format!("`{path}` is missing")),
        value => Error::new(ErrorKind::Data, format!("`{path}` is {}", shown(value))),
    }
}

/// Kind and looks of a value: *text "12,50"*.
pub(crate) fn shown(value: &Value) -> String {
    if let Some(digits) = json::beyond_64_bits(value) {
        return format!("an integer beyond 64 bits: {digits}");
    }
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bytes(_) | Value::String(_) => "text",
        Value::Integer(_) => "the integer",
        Value::Float(_) => "the number",
        Value::Boolean(_) => "the boolean",
        Value::Timestamp(_) => "the time",
        Value::Regex(_) => "the pattern",
        Value::Object(_) => "the object",
        Value::Array(_) => "the array",
    };
    let mut out = Vec::new();
    json::write_value(&mut out, value, None);
    let text = String::from_utf8_lossy(&out);
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{kind} {}...", &text[..end]),
        None => format!("{kind} {text}"),
    }
}

fn needs_kinds(opcode: Opcode) -> bool {
    use Opcode::{Add, Div, Ge, Gt, Le, Lt, Mul, Sub};
    matches!(opcode, Mul | Div | Add | Sub | Ge | Gt | Le | Lt)
}

/// Where the call stands that failed, and what it said: VRL puts each call around it in front.
fn innermost_call(said: &str) -> (Option<(usize, usize)>, &str) {
    let (mut place, mut rest) = (None, said);
    while let Some(inner) = rest.strip_prefix("function call error for ")
        && let Some((_, inner)) = inner.split_once(" at (")
        && let Some((at, inner)) = inner.split_once("): ")
        && let Some((start, end)) = at.split_once(':')
        && let (Ok(start), Ok(end)) = (start.parse(), end.parse())
    {
        (place, rest) = (Some((start, end)), inner);
    }
    (place, rest)
}

/// VRL's own words, as a cause.
#[derive(Debug)]
struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}
