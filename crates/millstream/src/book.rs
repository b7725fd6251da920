//! The book's blocks are programs: each chapter is a module whose doc tests they are.

macro_rules! chapters {
    ($($name:ident = $file:literal),* $(,)?) => { $(
        #[doc = include_str!(concat!("../../../docs/book/src/", $file))]
        mod $name {}
    )* };
}

chapters! {
    getting_started = "getting-started.md",
    concepts = "concepts.md",
    steps = "steps.md",
    dispatch = "dispatch.md",
    batching = "batching.md",
    errors = "errors.md",
    shutdown = "shutdown.md",
    testing = "testing.md",
    tuning = "tuning.md",
    comparison = "comparison.md",
}
