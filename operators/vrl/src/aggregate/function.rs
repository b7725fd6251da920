//! The functions of `aggregate`, as they are written: `count()`, `sum(.amount)`.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, PlanContext, Result, suggest};
use vrl::parser::{
    self,
    ast::{Expr, RootExpr},
};

use crate::program::Program;

/// What is computed of the records of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Count,
    Sum,
    Min,
    Max,
    Mean,
}

const KINDS: [(&str, Kind); 5] =
    [("count", Kind::Count), ("sum", Kind::Sum), ("min", Kind::Min), ("max", Kind::Max), ("mean", Kind::Mean)];

/// A function with its argument.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) kind: Kind,
    /// Absent for `count()`.
    pub(super) argument: Option<Arc<Program>>,
}

impl Function {
    /// Reads a function as it is written.
    pub(super) fn parse(source: &str, context: &PlanContext) -> Result<Self> {
        let wrong = |said: String, hint: String| Error::new(ErrorKind::Syntax, said).hint(hint).span(0, source.len());
        let no_function = || {
            wrong(
                format!("`{source}` is no function of records"),
                "write `count()`, `sum(.amount)`, `max(.at)`".to_owned(),
            )
        };
        let ast = parser::parse(source).map_err(|_| no_function())?;
        let [root] = ast.0.as_slice() else { return Err(no_function()) };
        let RootExpr::Expr(expr) = root.inner() else { return Err(no_function()) };
        let Expr::FunctionCall(call) = expr.inner() else { return Err(no_function()) };
        let call = call.inner();
        let name: &str = call.ident.inner().as_ref();
        let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) else {
            let known = KINDS.map(|(name, _)| name);
            let hint = suggest(name, &known).unwrap_or_default();
            return Err(wrong(format!("there is no function `{name}` of records"), hint));
        };
        match (kind, call.arguments.as_slice()) {
            (Kind::Count, []) => Ok(Function { kind: *kind, argument: None }),
            (Kind::Count, _) => Err(wrong(
                "`count` takes no argument".to_owned(),
                "write `count()`, behind a `filter` for some records".to_owned(),
            )),
            (_, [argument]) => {
                // With what stands in front blanked out, errors have their place in the whole.
                let span = argument.inner().expr.span();
                let text = source.get(span.start()..span.end()).unwrap_or_default();
                let program = Program::expression(&format!("{:1$}{text}", "", span.start()), context)?;
                Ok(Function { kind: *kind, argument: Some(Arc::new(program)) })
            }
            _ => Err(wrong(format!("`{name}` takes one argument"), format!("write `{name}(.amount)`"))),
        }
    }
}
