//! Steps made of closures, as planned.

use std::{fmt, sync::Arc};

use millstream_core::{Batch, Error, ErrorKind, Form, Operator, Output, Result, Step, StepPlan, Transform};
use serde_json::Value;

use crate::{classified::classified, failure::Classifiers};

/// Options of a step that can change while it runs.
pub(crate) trait Adjust: Send + Sync {
    /// Changes an option; `Ok(false)` if it has no such option.
    fn adjust(&self, option: &str, value: &Value) -> Result<bool>;
}

/// A step that is made anew for each worker.
pub(crate) struct Made {
    /// What it does: names the step where the user does not.
    pub(crate) verb: &'static str,
    pub(crate) form: Form,
    pub(crate) outputs: Vec<String>,
    pub(crate) stateful: bool,
    pub(crate) waits: bool,
    pub(crate) deterministic: bool,
    pub(crate) needs_end: bool,
    pub(crate) options: Vec<Arc<dyn Adjust>>,
    /// What its pipeline was told of errors of other types.
    pub(crate) classifiers: Classifiers,
    pub(crate) make: Box<dyn Fn() -> Step + Send + Sync>,
}

impl Made {
    fn new(verb: &'static str, make: impl Fn() -> Step + Send + Sync + 'static) -> Self {
        Made {
            verb,
            form: Form::Bytes,
            outputs: Vec::new(),
            stateful: false,
            waits: false,
            deterministic: true,
            needs_end: false,
            options: Vec::new(),
            classifiers: Classifiers::default(),
            make: Box::new(make),
        }
    }

    /// A step without state: `run` handles each batch with the user's function.
    pub(crate) fn transform<F>(verb: &'static str, function: F, run: fn(&F, Batch, &mut Output)) -> Self
    where
        F: Send + Sync + 'static,
    {
        let function = Arc::new(function);
        Made::new(verb, move || Step::Transform(Box::new(Apply { function: function.clone(), run })))
    }

    /// A step that does work of its own; its answers need not be the same each time.
    pub(crate) fn operator<O: Operator + 'static>(
        verb: &'static str,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Self {
        let made = Made::new(verb, move || Step::Operator(Box::new(make())));
        Made { waits: true, deterministic: false, ..made }
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb)
    }
}

impl StepPlan for Made {
    fn outputs(&self) -> Vec<String> {
        self.outputs.clone()
    }

    fn form(&self) -> Form {
        self.form
    }

    fn stateful(&self) -> bool {
        self.stateful
    }

    fn needs_end(&self) -> bool {
        self.needs_end
    }

    /// State is that of a key, or of whichever worker has the record.
    fn scales(&self) -> bool {
        true
    }

    fn waits(&self) -> bool {
        self.waits
    }

    fn deterministic(&self) -> bool {
        self.deterministic
    }

    fn change(&self, option: &str, value: &Value) -> Result<()> {
        for options in &self.options {
            if options.adjust(option, value)? {
                return Ok(());
            }
        }
        let what = format!("`{option}` of `{}` cannot be changed while the step runs", self.verb);
        Err(Error::new(ErrorKind::Unsupported, what))
    }

    fn create(&self) -> Result<Step> {
        Ok(classified((self.make)(), &self.classifiers))
    }
}

struct Apply<F> {
    function: Arc<F>,
    run: fn(&F, Batch, &mut Output),
}

impl<F: Send + Sync> Transform for Apply<F> {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        (self.run)(&self.function, batch, out);
    }
}
