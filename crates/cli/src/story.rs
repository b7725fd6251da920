//! What `run` tells about a pipeline: the promise and where it begins, and in the end its books and its dead letters.

use std::sync::Arc;

use millstream::{
    core::Delivery,
    runtime::{DeadLetterCause, Ended, Plan, Start, StateSpec, Summary},
};

use crate::{
    books::{Books, Stages},
    count::thousands,
    talk::Talk,
};

/// What is known of a pipeline before it starts.
#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) name: String,
    delivery: Delivery,
    /// Where its state is kept, for people.
    place: String,
    /// How to look at its dead letters.
    letters: String,
    pub(crate) stages: Stages,
    /// `file:line:column` of stages, where they stand in a file.
    locations: Vec<(String, String)>,
    hide: Arc<Hide>,
}

/// Takes secrets out of a text.
pub(crate) type Hide = dyn Fn(&str) -> String + Send + Sync;

impl Story {
    /// `folder`: the pipeline's own in the state directory.
    pub(crate) fn new(
        plan: &Plan,
        folder: &std::path::Path,
        locations: Vec<(String, String)>,
        hide: Arc<Hide>,
    ) -> Self {
        let place = match plan.state {
            StateSpec::Embedded => folder.display().to_string(),
            StateSpec::Memory => "in memory".to_owned(),
        };
        let letters = match &plan.dead_letter {
            Some(sink) => sink.describe(),
            None => format!("millstream dlq show {}", plan.name),
        };
        let (name, stages) = (plan.name.clone(), Stages::of(plan));
        Story { name, delivery: plan.delivery, place, letters, stages, locations, hide }
    }

    /// `orders: exactly once; order kept per key; resuming epoch 812 (.millstream/orders)`.
    pub(crate) fn promise(&self, start: Start) -> String {
        // Every stage has one worker, and a record that waits for another try holds up those of its key.
        format!("{}: {}; order kept per key; {start} ({})", self.name, self.delivery, self.place)
    }

    /// A text without the secrets of the pipeline.
    pub(crate) fn hide(&self, text: &str) -> String {
        (self.hide)(text)
    }

    /// The books, and the dead letters by cause.
    pub(crate) fn tell_end(&self, talk: &Talk, summary: &Summary) {
        let books = self.stages.books(&summary.stages);
        let how = match summary.ended {
            Ended::Finished => "",
            Ended::Drained => "; the next run goes on there",
            Ended::Stopped => "; stopped: the next run goes on from the last checkpoint",
            Ended::ReaderGone => "; the reader of the output has gone",
        };
        talk.say(&format!("{}: {}{}{how}", self.name, books, self.letters_hint(&books)));
        summary.causes.iter().for_each(|cause| talk.say(&format!("{}: {}", self.name, self.cause(cause))));
    }

    /// The books of a pipeline that failed.
    pub(crate) fn tell_failed(&self, talk: &Talk, books: &Books) {
        talk.say(&format!("{}: {books}{}; failed", self.name, self.letters_hint(books)));
    }

    fn letters_hint(&self, books: &Books) -> String {
        match books.dead {
            0 => String::new(),
            _ => format!(" ({})", self.hide(&self.letters)),
        }
    }

    /// `` `.amount` is text "12,50" in orders/3@918 (p.yaml:7:14); seen 41 times ``.
    fn cause(&self, cause: &DeadLetterCause) -> String {
        let place = self.locations.iter().find(|(stage, _)| *stage == cause.stage);
        let place = place.map_or(format!("step `{}`", cause.stage), |(_, location)| location.clone());
        let seen = match cause.count {
            1 => "seen once".to_owned(),
            count => format!("seen {} times", thousands(count)),
        };
        self.hide(&format!("dead: {} {} in {} ({place}); {seen}", cause.code, cause.message, cause.example))
    }
}
