//! Assignments to metadata that the compiler refuses.
//!
//! It judges whether `%key` can be assigned to by the kind of the *value* (`verify_overwritable` in vrl's `assignment.rs`): where
//! that is text, or an object whose fields are all known, it says that the parent path rejects it. So the value is put aside
//! meanwhile: `%key = upcase(.)` becomes
//!
//! ```text
//! [new = upcase(.), value = ., . = get!({}, []), %key = new, . = value, new][5]
//! ```
//!
//! where `get` gives something of any kind. A variable keeps what is known of the value's kind. It is an array, because what
//! is assigned to in a block is unknown behind it.

use vrl::{
    parser::{
        Span,
        ast::{
            Array, Assignment, AssignmentOp, AssignmentTarget, Container, Expr, FunctionArgument, FunctionCall, Ident,
            Node, Object, Query, QueryTarget,
        },
    },
    path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix},
};

const NEW: &str = "__millstream_new";
const FAULT: &str = "__millstream_fault";
const VALUE: &str = "__millstream_value";

/// The assignment, with the value put aside if it is one to metadata.
pub(crate) fn beside(assignment: Node<Assignment>) -> Expr {
    let metadata = |target: &AssignmentTarget| match target {
        AssignmentTarget::Query(query) => matches!(query.target.inner(), QueryTarget::External(PathPrefix::Metadata)),
        AssignmentTarget::External(Some(path)) => path.prefix == PathPrefix::Metadata,
        AssignmentTarget::External(None) | AssignmentTarget::Internal(..) | AssignmentTarget::Noop => false,
    };
    let any = match assignment.inner() {
        Assignment::Single { target, .. } => metadata(target.inner()),
        Assignment::Infallible { ok, err, .. } => metadata(ok.inner()) || metadata(err.inner()),
    };
    if !any {
        return Expr::Assignment(assignment);
    }
    let root = || AssignmentTarget::External(Some(OwnedTargetPath::event_root()));
    let mut steps = Vec::new();
    let write = match assignment.into_inner() {
        Assignment::Single { target, op, expr } => {
            let write = Write(expr.span());
            steps.push(write.assign(variable(NEW), AssignmentOp::Assign, *expr));
            steps.extend(write.put_aside(root()));
            steps.push(write.assign(target.into_inner(), op, write.read(&variable(NEW))));
            write
        }
        Assignment::Infallible { ok, err, op, expr } => {
            let write = Write(expr.span());
            let (new, fault) = (write.node(variable(NEW)), write.node(variable(FAULT)));
            let both = Assignment::Infallible { ok: new, err: fault, op: AssignmentOp::Assign, expr };
            steps.push(write.node(Expr::Assignment(write.node(both))));
            steps.extend(write.put_aside(root()));
            steps.push(write.assign(ok.into_inner(), op, write.read(&variable(NEW))));
            steps.push(write.assign(err.into_inner(), AssignmentOp::Assign, write.read(&variable(FAULT))));
            write
        }
    };
    steps.push(write.assign(root(), AssignmentOp::Assign, write.read(&variable(VALUE))));
    steps.push(write.read(&variable(NEW)));
    let path = OwnedValuePath { segments: vec![OwnedSegment::index(steps.len() as isize - 1)] };
    let all = Container::Array(write.node(steps.into_iter().collect()));
    Expr::Query(write.node(Query { target: write.node(QueryTarget::Container(all)), path: write.node(path) }))
}

fn variable(name: &str) -> AssignmentTarget {
    AssignmentTarget::Internal(Ident::new(name), None)
}

/// Makes nodes that stand where the assigned expression stood: vrl takes it for granted that something is before that.
#[derive(Clone, Copy)]
struct Write(Span);

impl Write {
    fn node<T>(self, inner: T) -> Node<T> {
        Node::new(self.0, inner)
    }

    fn read(self, target: &AssignmentTarget) -> Node<Expr> {
        self.node(target.to_expr(self.0))
    }

    fn assign(self, target: AssignmentTarget, op: AssignmentOp, expr: Node<Expr>) -> Node<Expr> {
        let assignment = Assignment::Single { target: self.node(target), op, expr: Box::new(expr) };
        self.node(Expr::Assignment(self.node(assignment)))
    }

    /// Keeps the value in a variable, and puts something of any kind in its place.
    fn put_aside(self, root: AssignmentTarget) -> [Node<Expr>; 2] {
        let keep = self.assign(variable(VALUE), AssignmentOp::Assign, self.read(&root));
        let container = |container| self.node(Expr::Container(self.node(container)));
        let arguments = [
            container(Container::Object(self.node(Object::from_iter([])))),
            container(Container::Array(self.node(Array::from_iter([])))),
        ];
        let arguments = arguments.map(|expr| self.node(FunctionArgument { ident: None, expr })).into();
        let get = FunctionCall { ident: self.node(Ident::new("get")), abort_on_error: true, arguments, closure: None };
        [keep, self.assign(root, AssignmentOp::Assign, self.node(Expr::FunctionCall(self.node(get))))]
    }
}
