//! Runs an expression on one record after the other.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, RecordRef, Result};
use vrl::{
    compiler::{Context, ExpressionError, state::RuntimeState, value::VrlValueArithmetic},
    parser::ast::{Ident, Opcode},
    value::Value,
};

use crate::{
    fault,
    lenient::ERROR,
    needs::Needs,
    program::{Program, Shape},
    target::Reading,
};

/// An expression that only reads, with what it needs to run.
pub(crate) struct Machine {
    program: Arc<Program>,
    state: RuntimeState,
    metadata: Value,
    error: Ident,
}

impl Machine {
    pub(crate) fn new(program: Arc<Program>) -> Self {
        Machine {
            state: RuntimeState::default(),
            metadata: program.metadata.clone(),
            error: Ident::new(ERROR),
            program,
        }
    }

    /// The part of the value that it looks at.
    pub(crate) fn needs(&self) -> &Needs {
        &self.program.needs
    }

    /// Runs it on a record; calls `then` with what it gave.
    pub(crate) fn run<T>(
        &mut self,
        value: &Value,
        record: &RecordRef<'_>,
        then: impl FnOnce(&Value) -> Result<T>,
    ) -> Result<T> {
        match &self.program.shape {
            Shape::Path(path) if path.segments.is_empty() => then(value),
            Shape::Path(path) => then(value.get(path).unwrap_or(&Value::Null)),
            Shape::Compare(path, opcode, other) => {
                let left = value.get(path).unwrap_or(&Value::Null);
                let compared = compare(left, *opcode, other);
                then(&compared.map_err(|said| fault::explain(&self.program.facts, value, &said))?)
            }
            Shape::Any => then(&self.interpret(value, record)?),
        }
    }

    /// Runs a condition on a record.
    pub(crate) fn test(&mut self, value: &Value, record: &RecordRef<'_>) -> Result<bool> {
        self.run(value, record, |result| match result {
            Value::Boolean(flag) => Ok(*flag),
            other => {
                let error = Error::new(ErrorKind::Data, format!("the condition gave {}", fault::shown(other)));
                Err(error.hint("only `true` and `false` are booleans: compare it with something"))
            }
        })
    }

    fn interpret(&mut self, value: &Value, record: &RecordRef<'_>) -> Result<Value> {
        self.program.reads.fill(&mut self.metadata, record);
        if !self.state.is_empty() {
            self.state.clear();
        }
        let mut target = Reading { value, metadata: &self.metadata };
        let mut context = Context::new(&mut target, &mut self.state, &self.program.timezone);
        let explain = |said: &str| fault::explain(&self.program.facts, value, said);
        let result = match self.program.compiled.resolve(&mut context) {
            Ok(result) | Err(ExpressionError::Return { value: result, .. }) => result,
            Err(error) => return Err(explain(&error.to_string())),
        };
        match self.state.variable(&self.error).filter(|_| self.program.slot) {
            None | Some(Value::Null) => Ok(result),
            Some(said) => Err(explain(&said.to_string_lossy())),
        }
    }
}

fn compare(left: &Value, opcode: Opcode, right: &Value) -> Result<Value, String> {
    let compared = match opcode {
        Opcode::Eq => return Ok(Value::Boolean(left.eq_lossy(right))),
        Opcode::Ne => return Ok(Value::Boolean(!left.eq_lossy(right))),
        Opcode::Gt => left.clone().try_gt(right.clone()),
        Opcode::Ge => left.clone().try_ge(right.clone()),
        Opcode::Lt => left.clone().try_lt(right.clone()),
        _ => left.clone().try_le(right.clone()),
    };
    compared.map_err(|error| error.to_string())
}
