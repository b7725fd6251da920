//! What a program does, read from its syntax tree: where errors are explained from, and what is known before it runs.

use vrl::{
    parser::{
        Span,
        ast::{
            Assignment, AssignmentOp, AssignmentTarget, Container, Expr, FunctionCall, Node, Opcode, Predicate,
            Program, Query, QueryTarget, RootExpr, Unary,
        },
    },
    path::{OwnedTargetPath, OwnedValuePath, PathPrefix},
    value::KeyString,
};

use crate::changes::{Changes, How};

/// What a program does, in the order in which it stands there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Reads and writes of the record's value and metadata.
    pub(crate) touches: Vec<Touch>,
    /// Calls of functions.
    pub(crate) calls: Vec<Call>,
    /// Operators that need both sides to be of a kind.
    pub(crate) operations: Vec<Operation>,
    /// What is assigned in the value, and how.
    pub(crate) assigned: Vec<(OwnedValuePath, Changes)>,
}

/// A read or write of the record.
#[derive(Clone, Debug)]
pub(crate) struct Touch {
    pub(crate) path: OwnedTargetPath,
    pub(crate) span: Span,
    pub(crate) write: bool,
}

/// A call of a function.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) span: Span,
    /// Just behind its name, where a `!` would stand.
    pub(crate) name_end: usize,
    pub(crate) aborts: bool,
    /// Parts of the record that are arguments as they are.
    pub(crate) arguments: Vec<OwnedTargetPath>,
}

/// A use of an operator.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) opcode: Opcode,
    pub(crate) span: Span,
    /// Parts of the record that are operands as they are.
    pub(crate) operands: Vec<OwnedTargetPath>,
}

impl Facts {
    pub(crate) fn of(program: &Program) -> Self {
        let mut facts = Facts::default();
        for root in &program.0 {
            if let RootExpr::Expr(expr) = root.inner() {
                facts.expr(expr);
            }
        }
        facts
    }

    fn expr(&mut self, expr: &Node<Expr>) {
        match expr.inner() {
            Expr::Literal(_) | Expr::Variable(_) | Expr::Break(_) => {}
            Expr::Container(container) => self.container(container),
            Expr::IfStatement(statement) => {
                match statement.predicate.inner() {
                    Predicate::One(expr) => self.expr(expr),
                    Predicate::Many(all) => all.iter().for_each(|expr| self.expr(expr)),
                }
                statement.if_node.0.iter().for_each(|expr| self.expr(expr));
                statement.else_node.iter().flat_map(|block| &block.0).for_each(|expr| self.expr(expr));
            }
            Expr::Op(op) => {
                let operands = [&op.0, &op.2].into_iter().filter_map(|side| external(side)).collect();
                self.operations.push(Operation { opcode: *op.1.inner(), span: expr.span(), operands });
                self.expr(&op.0);
                self.expr(&op.2);
            }
            Expr::Assignment(assignment) => match assignment.inner() {
                Assignment::Single { target, op, expr } => {
                    self.expr(expr);
                    let what = match op {
                        AssignmentOp::Assign => written(expr),
                        AssignmentOp::Merge => Changes::replaced(),
                    };
                    self.assign(target, what);
                }
                Assignment::Infallible { ok, err, expr, .. } => {
                    self.expr(expr);
                    self.assign(ok, Changes::replaced());
                    self.assign(err, Changes::replaced());
                }
            },
            Expr::Query(query) => self.query(query.inner(), query.span()),
            Expr::FunctionCall(call) => self.call(call.inner(), call.span()),
            Expr::Unary(unary) => {
                let Unary::Not(not) = unary.inner();
                self.expr(&not.inner().clone().take().1);
            }
            Expr::Abort(abort) => abort.message.iter().for_each(|expr| self.expr(expr)),
            Expr::Return(value) => self.expr(&value.expr),
        }
    }

    fn container(&mut self, container: &Container) {
        match container {
            Container::Group(group) => self.expr(&group.0),
            Container::Block(block) => block.0.iter().for_each(|expr| self.expr(expr)),
            Container::Array(array) => array.inner().clone().into_iter().for_each(|expr| self.expr(&expr)),
            Container::Object(object) => object.inner().clone().into_iter().for_each(|(_, expr)| self.expr(&expr)),
        }
    }

    fn query(&mut self, query: &Query, span: Span) {
        match query.target.inner() {
            QueryTarget::External(prefix) => {
                let path = OwnedTargetPath { prefix: *prefix, path: query.path.inner().clone() };
                self.touches.push(Touch { path, span, write: false });
            }
            QueryTarget::Internal(_) => {}
            QueryTarget::FunctionCall(call) => self.call(call, query.target.span()),
            QueryTarget::Container(container) => self.container(container),
        }
    }

    fn call(&mut self, call: &FunctionCall, span: Span) {
        self.calls.push(Call {
            name: call.ident.inner().to_string(),
            span,
            name_end: call.ident.end(),
            aborts: call.abort_on_error,
            arguments: call.arguments.iter().filter_map(|argument| external(&argument.inner().expr)).collect(),
        });
        call.arguments.iter().for_each(|argument| self.expr(&argument.inner().expr));
        call.closure.iter().flat_map(|closure| &closure.inner().block.0).for_each(|expr| self.expr(expr));
    }

    fn assign(&mut self, target: &Node<AssignmentTarget>, what: Changes) {
        let path = match target.inner() {
            AssignmentTarget::External(path) => path.clone().unwrap_or_else(OwnedTargetPath::event_root),
            AssignmentTarget::Query(query) => match query.target.inner() {
                QueryTarget::External(prefix) => OwnedTargetPath { prefix: *prefix, path: query.path.inner().clone() },
                _ => return,
            },
            AssignmentTarget::Noop | AssignmentTarget::Internal(..) => return,
        };
        if path.prefix == PathPrefix::Event {
            match self.assigned.iter_mut().find(|(known, _)| *known == path.path) {
                // Where two assignments differ, nothing is known of the order.
                Some((_, known)) if *known != what => *known = Changes::replaced(),
                Some(_) => {}
                None => self.assigned.push((path.path.clone(), what)),
            }
        }
        self.touches.push(Touch { path, span: target.span(), write: true });
    }
}

/// The part of the record that an expression is, if it is nothing else.
pub(crate) fn external(expr: &Node<Expr>) -> Option<OwnedTargetPath> {
    match expr.inner() {
        Expr::Query(query) => match query.inner().target.inner() {
            QueryTarget::External(prefix) => {
                Some(OwnedTargetPath { prefix: *prefix, path: query.inner().path.inner().clone() })
            }
            _ => None,
        },
        Expr::Container(container) => match container.inner() {
            Container::Group(group) => external(&group.0),
            _ => None,
        },
        _ => None,
    }
}

/// The order of fields of an object that is spelled out.
fn written(expr: &Node<Expr>) -> Changes {
    let Expr::Container(container) = expr.inner() else { return Changes::replaced() };
    match container.inner() {
        Container::Group(group) => written(&group.0),
        Container::Object(object) => {
            // Ordered by where the names stand.
            let fields = object.inner().clone().into_iter().map(|(name, value)| {
                (KeyString::from(name.into_inner()), Some(written(&value)).filter(|inner| inner.how() == How::Written))
            });
            Changes::written(fields.map(|(name, inner)| (name, inner.unwrap_or_else(Changes::replaced))).collect())
        }
        _ => Changes::replaced(),
    }
}
