//! A compiled program or expression, checked for the values that it will get.

use std::sync::LazyLock;

use millstream_core::{Error, ErrorKind, Form, PlanContext, Result};
use vrl::{
    compiler::{
        CompilationResult, CompileConfig, Compiler, Function, Program as Compiled, TimeZone, TypeState,
        state::{ExternalEnv, LocalEnv},
    },
    diagnostic::DiagnosticList,
    parser::{
        self,
        ast::{Expr, Literal, Node, Opcode, Program as Ast, RootExpr},
    },
    path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix},
    value::{Kind, Value},
};

use crate::{
    diagnose,
    inspect::{Facts, external},
    lenient::Lenient,
    metadata::{self, Uses},
    needs::Needs,
};

/// Most rewritings of one expression: one for each operator in it that can fail.
const REWRITINGS_MAX: usize = 32;
/// Functions that talk to the network: a step never blocks.
const BLOCKING: [&str; 3] = ["dns_lookup", "reverse_dns", "http_request"];
/// A function that reads the whole value, whatever its argument is.
const READS_ALL: &str = "unnest";
/// Functions that give something else each time.
const CHANGING: [&str; 8] =
    ["now", "random_bool", "random_bytes", "random_float", "random_int", "uuid_v4", "uuid_v7", "get_hostname"];

static FUNCTIONS: LazyLock<Vec<Box<dyn Function>>> = LazyLock::new(|| {
    vrl::stdlib::all().into_iter().filter(|function| !BLOCKING.contains(&function.identifier())).collect()
});

/// A program or expression, ready to be run.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) compiled: Compiled,
    pub(crate) facts: Facts,
    pub(crate) shape: Shape,
    /// Whether the error of the last expression is in a variable.
    pub(crate) slot: bool,
    /// What the last expression gives.
    pub(crate) result: Kind,
    /// What the record's value is afterwards.
    pub(crate) value: Kind,
    /// The part of the value that it looks at or assigns to.
    pub(crate) needs: Needs,
    pub(crate) reads: Uses,
    pub(crate) writes: Uses,
    /// The metadata of no record.
    pub(crate) metadata: Value,
    pub(crate) timezone: TimeZone,
}

/// Expressions that need no interpreter.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    /// A part of the value, or the value.
    Path(OwnedValuePath),
    /// A part of the value compared with something fixed.
    Compare(OwnedValuePath, Opcode, Value),
    /// Anything else.
    Any,
}

impl Program {
    /// Compiles what `map` runs: VRL as it is, and the record may be changed.
    pub(crate) fn map(source: &str, context: &PlanContext) -> Result<Self> {
        let ast = parse(source)?;
        let facts = Facts::of(&ast);
        check(&facts, context)?;
        // The last expression's value is not wanted; with a `null` behind it, it is not even copied.
        let statements = |mut ast: Ast| {
            let span = parser::Span::new(source.len(), source.len());
            let null = Node::new(span, Expr::Literal(Node::new(span, Literal::Null)));
            ast.0.push(Node::new(span, RootExpr::Expr(null)));
            ast
        };
        let compiled = compile(statements(ast.clone()), context, true).map(|compiled| (compiled, false));
        let compiled = compiled.or_else(|list| {
            if !diagnose::errors(&list).into_iter().any(diagnose::rejects_path) {
                return Err(list);
            }
            let beside = Lenient { beside: true, ..Lenient::default() };
            compile(statements(beside.program(ast)), context, true).map(|compiled| (compiled, true))
        });
        let (compiled, put_aside) = compiled.map_err(|list| {
            diagnose::error(source, &list, &facts, |mended| match parser::parse(mended) {
                Ok(ast) => compile(statements(ast), context, true).err().map_or(0, |list| list.len()),
                Err(_) => usize::MAX,
            })
        })?;
        let mut program = Program::new(compiled, facts, Shape::Any, false, context);
        if put_aside {
            // All of the value, and not only the parts that the source names.
            program.needs = Needs::All;
        }
        Ok(program)
    }

    /// Compiles an expression that only reads. Where it can fail, the error is the record's.
    pub(crate) fn expression(source: &str, context: &PlanContext) -> Result<Self> {
        let ast = parse(source)?;
        let facts = Facts::of(&ast);
        check(&facts, context)?;
        if ast.0.is_empty() {
            return Err(Error::new(ErrorKind::Syntax, "the expression is empty"));
        }
        let mut lenient = Lenient::default();
        for _ in 0..REWRITINGS_MAX {
            let list = match compile(lenient.program(ast.clone()), context, false) {
                Ok(compiled) => {
                    let shape = shape(&ast);
                    return Ok(Program::new(compiled, facts, shape, lenient.slot, context));
                }
                Err(list) => list,
            };
            let errors = diagnose::errors(&list);
            let mut progress = false;
            for error in errors.iter().filter(|error| diagnose::fallible(error)) {
                let root = ast.0.last().map(Node::span);
                let spans = error.labels.iter().map(|label| label.span).filter(|span| Some(*span) != root);
                let known = |span: &parser::Span| facts.operations.iter().any(|operation| operation.span == *span);
                let inner = spans.filter(known).find(|span| !lenient.aborting.contains(span));
                progress |= inner.is_some() || !lenient.slot;
                match inner {
                    Some(span) => lenient.aborting.push(span),
                    None => lenient.slot = true,
                }
            }
            // Other errors may only follow from these, so they count once nothing is left to rewrite.
            if !progress {
                let grave: Vec<_> =
                    errors.iter().filter(|error| !diagnose::fallible(error)).copied().cloned().collect();
                let list = if grave.is_empty() { list } else { DiagnosticList::from(grave) };
                return Err(diagnose::error(source, &list, &facts, |_| usize::MAX));
            }
        }
        Err(Error::new(ErrorKind::Syntax, "the expression has too many operators that can fail"))
    }

    /// Compiles an expression that must give a boolean.
    pub(crate) fn condition(source: &str, context: &PlanContext) -> Result<Self> {
        let program = Program::expression(source, context)?;
        if program.result.contains_boolean() || program.result.is_never() {
            return Ok(program);
        }
        let error = Error::new(ErrorKind::Syntax, format!("the condition is no boolean but {}", program.result));
        Err(error.hint("compare it with something: `.amount > 0`, `. != \"\"`").span(0, source.len()))
    }

    fn new(result: CompilationResult, facts: Facts, shape: Shape, slot: bool, context: &PlanContext) -> Self {
        let compiled = result.program;
        let (mut reads, mut writes) = (Uses::default(), Uses::default());
        for touch in facts.touches.iter().filter(|touch| touch.path.prefix == PathPrefix::Metadata) {
            reads.add(&touch.path.path);
            if touch.write {
                writes.add(&touch.path.path);
            }
        }
        let deletes = facts.calls.iter().filter(|call| call.name == "del").flat_map(|call| &call.arguments);
        for path in deletes.filter(|path| path.prefix == PathPrefix::Metadata) {
            writes.add(&path.path);
        }
        let of_value = facts.touches.iter().filter(|touch| touch.path.prefix == PathPrefix::Event);
        let whole = facts.calls.iter().any(|call| call.name == READS_ALL);
        let needs = if whole { Needs::All } else { Needs::of(of_value.map(|touch| &touch.path.path)) };
        let ends = compiled.final_type_info();
        Program {
            shape,
            slot,
            result: ends.result.kind().clone(),
            value: ends.state.external.target_kind().clone(),
            needs,
            reads,
            writes,
            metadata: metadata::of_vars(&context.vars),
            timezone: TimeZone::parse("UTC").unwrap_or_default(),
            compiled,
            facts,
        }
    }

    /// Whether the same record always gives the same result.
    pub(crate) fn deterministic(&self) -> bool {
        !self.facts.calls.iter().any(|call| CHANGING.contains(&call.name.as_str()))
    }
}

fn parse(source: &str) -> Result<Ast> {
    parser::parse(source).map_err(|error| {
        let list = DiagnosticList::from(vec![Box::new(error) as Box<dyn vrl::diagnostic::DiagnosticMessage>]);
        diagnose::error(source, &list, &Facts::default(), |_| usize::MAX)
    })
}

fn compile(ast: Ast, context: &PlanContext, writes: bool) -> Result<CompilationResult, DiagnosticList> {
    let value = match context.form {
        Form::Bytes | Form::Text => Kind::bytes(),
        Form::Json => Kind::any(),
    };
    let external = ExternalEnv::new_with_kind(value, metadata::kind(&context.vars));
    let mut config = CompileConfig::default();
    if writes {
        for name in metadata::NAMES.iter().filter(|name| !metadata::SETTABLE.contains(name)) {
            let path = OwnedValuePath { segments: vec![OwnedSegment::field(name)] };
            config.set_read_only_path(OwnedTargetPath::metadata(path), true);
        }
    } else {
        config.set_read_only();
    }
    Compiler::compile(&FUNCTIONS, ast, &TypeState { local: LocalEnv::default(), external }, config)
}

/// What VRL does not check: fields of text, and names below `%`.
fn check(facts: &Facts, context: &PlanContext) -> Result<()> {
    let mut text = matches!(context.form, Form::Bytes | Form::Text);
    for touch in &facts.touches {
        let (path, span) = (&touch.path, touch.span);
        let place = |error: Error| error.span(span.start(), span.end());
        match path.prefix {
            PathPrefix::Metadata => metadata::check(&path.path, &context.vars).map_err(place)?,
            PathPrefix::Event if path.path.segments.is_empty() => text &= !touch.write,
            PathPrefix::Event if text => {
                let (what, hint) = match context.form {
                    Form::Bytes => ("bytes", "the source without `codec` gives bytes; add `codec: json`"),
                    _ => (
                        "text",
                        "the source's `codec` gives text; add `codec: json`, or begin with a `map: '. = parse_json!(.)'`",
                    ),
                };
                let error = Error::new(ErrorKind::Syntax, format!("`{path}` is a field, but the value is {what}"));
                return Err(place(error.hint(hint)));
            }
            PathPrefix::Event => {}
        }
    }
    Ok(())
}

fn shape(ast: &Ast) -> Shape {
    let [root] = ast.0.as_slice() else { return Shape::Any };
    let RootExpr::Expr(expr) = root.inner() else { return Shape::Any };
    let of_value = |expr: &Node<Expr>| external(expr).filter(|path| path.prefix == PathPrefix::Event);
    if let Some(path) = of_value(expr) {
        return Shape::Path(path.path);
    }
    if let Expr::Op(op) = expr.inner() {
        use Opcode::{Eq, Ge, Gt, Le, Lt, Ne};
        let opcode = *op.1.inner();
        if matches!(opcode, Eq | Ne | Gt | Ge | Lt | Le)
            && let Some(path) = of_value(&op.0)
            && let Some(value) = literal(&op.2)
        {
            return Shape::Compare(path.path, opcode, value);
        }
    }
    Shape::Any
}

fn literal(expr: &Node<Expr>) -> Option<Value> {
    let Expr::Literal(literal) = expr.inner() else { return None };
    match literal.inner() {
        Literal::String(template) => template.as_literal_string().map(Value::from),
        Literal::RawString(text) => Some(Value::from(text.as_str())),
        Literal::Integer(number) => Some(Value::Integer(*number)),
        Literal::Float(number) => Some(Value::Float(*number)),
        Literal::Boolean(flag) => Some(Value::Boolean(*flag)),
        Literal::Null => Some(Value::Null),
        Literal::Regex(_) | Literal::Timestamp(_) => None,
    }
}
