//! Lets an expression that can fail be compiled as it stands, so that its error reaches the record's error rule.
//!
//! VRL wants each error handled where it can arise. Here the rule of the record handles it, so the syntax tree is rewritten
//! before it is compiled: a call gets its `!`, `!.flag` becomes `!bool!(.flag)`, an operator inside a call aborts, and the
//! error of the last expression goes into a variable. Errors that the expression handles itself (`??`) stay handled.

use vrl::parser::{
    Span,
    ast::{
        Abort, Assignment, AssignmentOp, AssignmentTarget, Block, Container, Expr, FunctionArgument, FunctionCall,
        FunctionClosure, Group, Ident, IfStatement, Literal, Node, Not, Op, Opcode, Predicate, Program, Query,
        QueryTarget, RootExpr, Unary,
    },
};

use crate::beside::beside;

/// The variable that gets the error of the last expression.
pub(crate) const ERROR: &str = "__millstream_error";

/// How to rewrite an expression.
#[derive(Debug, Default)]
pub(crate) struct Lenient {
    /// Operators that fail by aborting.
    pub(crate) aborting: Vec<Span>,
    /// Whether the last expression's error goes into the variable [`ERROR`].
    pub(crate) slot: bool,
    /// Only assignments are rewritten, by [`beside`]: nothing is let through that VRL would not.
    pub(crate) beside: bool,
}

impl Lenient {
    /// The program rewritten.
    pub(crate) fn program(&self, program: Program) -> Program {
        let last = program.0.len().saturating_sub(1);
        let roots = program.0.into_iter().enumerate().map(|(at, root)| {
            root.map(|root| match root {
                RootExpr::Expr(expr) if at == last && self.slot => RootExpr::Expr(into_slot(self.expr(expr, false))),
                RootExpr::Expr(expr) => RootExpr::Expr(self.expr(expr, false)),
                error => error,
            })
        });
        Program(roots.collect())
    }

    fn boxed(&self, expr: Node<Expr>, caught: bool) -> Box<Node<Expr>> {
        Box::new(self.expr(expr, caught))
    }

    /// `caught`: an error of this expression is handled around it.
    fn expr(&self, node: Node<Expr>, caught: bool) -> Node<Expr> {
        let (span, expr) = node.take();
        let expr = match expr {
            Expr::Container(container) => Expr::Container(container.map(|container| self.container(container, caught))),
            Expr::IfStatement(statement) => Expr::IfStatement(statement.map(|statement| self.statement(statement))),
            Expr::Op(op) => {
                let op = op.map(|Op(left, opcode, right)| {
                    let handled = caught || *opcode.inner() == Opcode::Err;
                    Op(self.boxed(*left, handled), opcode, self.boxed(*right, caught))
                });
                if self.aborting.contains(&span) { abort_on_error(op, span) } else { Expr::Op(op) }
            }
            Expr::Assignment(assignment) => {
                let assignment = assignment.map(|assignment| match assignment {
                    Assignment::Single { target, op, expr } => {
                        Assignment::Single { target, op, expr: self.boxed(*expr, false) }
                    }
                    Assignment::Infallible { ok, err, op, expr } => {
                        Assignment::Infallible { ok, err, op, expr: self.boxed(*expr, true) }
                    }
                });
                if self.beside { beside(assignment) } else { Expr::Assignment(assignment) }
            }
            Expr::Query(query) => Expr::Query(query.map(|Query { target, path }| {
                let target = target.map(|target| match target {
                    QueryTarget::FunctionCall(call) => QueryTarget::FunctionCall(self.call(call, caught)),
                    QueryTarget::Container(container) => QueryTarget::Container(self.container(container, caught)),
                    other => other,
                });
                Query { target, path }
            })),
            Expr::FunctionCall(call) => Expr::FunctionCall(call.map(|call| self.call(call, caught))),
            Expr::Unary(unary) => Expr::Unary(unary.map(|Unary::Not(not)| {
                Unary::Not(not.map(|not| {
                    let (mark, inner) = not.take();
                    let inner = self.expr(*inner, caught);
                    Not::new(mark.span(), if self.beside { inner } else { boolean(inner, caught) })
                }))
            })),
            Expr::Abort(abort) => Expr::Abort(
                abort.map(|Abort { message }| Abort { message: message.map(|message| self.boxed(*message, true)) }),
            ),
            other => other,
        };
        Node::new(span, expr)
    }

    fn container(&self, container: Container, caught: bool) -> Container {
        match container {
            Container::Group(group) => {
                Container::Group(Box::new((*group).map(|group| Group(self.expr(group.into_inner(), caught)))))
            }
            Container::Block(block) => Container::Block(block.map(|block| self.block(block))),
            Container::Array(array) => {
                Container::Array(array.map(|array| array.into_iter().map(|item| self.expr(item, false)).collect()))
            }
            Container::Object(object) => Container::Object(
                object.map(|object| object.into_iter().map(|(name, item)| (name, self.expr(item, false))).collect()),
            ),
        }
    }

    fn block(&self, block: Block) -> Block {
        Block(block.into_inner().into_iter().map(|expr| self.expr(expr, false)).collect())
    }

    fn statement(&self, statement: IfStatement) -> IfStatement {
        IfStatement {
            predicate: statement.predicate.map(|predicate| match predicate {
                Predicate::One(expr) => Predicate::One(self.boxed(*expr, false)),
                Predicate::Many(all) => Predicate::Many(all.into_iter().map(|expr| self.expr(expr, false)).collect()),
            }),
            if_node: statement.if_node.map(|block| self.block(block)),
            else_node: statement.else_node.map(|block| block.map(|block| self.block(block))),
        }
    }

    fn call(&self, call: FunctionCall, caught: bool) -> FunctionCall {
        let arguments = call.arguments.into_iter().map(|argument| {
            argument.map(|FunctionArgument { ident, expr }| FunctionArgument { ident, expr: self.expr(expr, false) })
        });
        FunctionCall {
            ident: call.ident,
            abort_on_error: call.abort_on_error || !(caught || self.beside),
            arguments: arguments.collect(),
            closure: call.closure.map(|closure| {
                closure.map(|FunctionClosure { variables, block }| FunctionClosure {
                    variables,
                    block: block.map(|block| self.block(block)),
                })
            }),
        }
    }
}

/// `bool!(expr)`, unless it is a boolean by its looks.
fn boolean(expr: Node<Expr>, caught: bool) -> Node<Expr> {
    let span = expr.span();
    match expr.inner() {
        Expr::Query(_) | Expr::Variable(_) => {}
        _ => return expr,
    }
    let argument = Node::new(span, FunctionArgument { ident: None, expr });
    let ident = Node::new(span, Ident::new("bool"));
    let call = FunctionCall { ident, abort_on_error: !caught, arguments: vec![argument], closure: None };
    Node::new(span, Expr::FunctionCall(Node::new(span, call)))
}

/// `(op) ?? abort "..."`.
fn abort_on_error(op: Node<Op>, span: Span) -> Expr {
    let message = Expr::Literal(Node::new(span, Literal::RawString(format!("cannot compute {}", op.inner()))));
    let abort = Abort { message: Some(Box::new(Node::new(span, message))) };
    let abort = Node::new(span, Expr::Abort(Node::new(span, abort)));
    let op = Node::new(span, Expr::Op(op));
    Expr::Op(Node::new(span, Op(Box::new(op), Node::new(span, Opcode::Err), Box::new(abort))))
}

/// `_, error = expr`.
fn into_slot(expr: Node<Expr>) -> Node<Expr> {
    let span = expr.span();
    let assignment = Assignment::Infallible {
        ok: Node::new(span, AssignmentTarget::Noop),
        err: Node::new(span, AssignmentTarget::Internal(Ident::new(ERROR), None)),
        op: AssignmentOp::Assign,
        expr: Box::new(expr),
    };
    Node::new(span, Expr::Assignment(Node::new(span, assignment)))
}
