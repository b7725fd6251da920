//! Pipeline files: YAML and JSON to a spec, with diagnostics that know their place.
//!
//! ```text
//! bytes -> located tree -> interpolation -> PipelineSpec        (load, parse)
//!              |                                  |
//!              +---- line and column <--- errors of the planner (PipelineFile::locate)
//! ```
//!
//! 1. [`load`] reads files and folders, [`parse`] one text. Both give [`PipelineFile`]s, or every [`Diagnostic`] that could
//!    be found: the parts of a file are independent, so the first mistake does not hide the second.
//! 2. Variables come from [`Variables`] and the file's `vars`; they are put into parsed texts, so a value can never become
//!    structure. Expressions are left alone: a text is one where the schema of its component says `"format": "vrl"`.
//! 3. Components see plain [`serde_json::Value`]s. Their errors name the option's path; [`PipelineFile::locate`] turns that
//!    into `file:line:column`, also inside quoted texts and block texts.
//! 4. [`schema`] is the JSON Schema of a whole file, put together from the schemas of the components.

mod align;
mod diagnostic;
mod entry;
mod file;
mod interpolate;
mod load;
mod pipeline;
mod quoting;
mod resolve;
mod schema;
mod shape;
mod source;
mod tree;
mod variables;

pub use diagnostic::{Diagnostic, Fix, apply_fixes};
pub use file::PipelineFile;
pub use load::{load, parse};
pub use schema::schema;
pub use variables::Variables;
