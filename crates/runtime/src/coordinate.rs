//! The coordinator: cuts epochs, and collects what is known of them until they can be decided.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use millstream_core::{Change, Companion, Epoch, Last, SourceCheckpoint, Token};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    channel::Barrier,
    dead_letter_task::DeadLetterCommand,
    ending::{CLOSING_WAIT, FAR, tell_unclosed, too_late},
    handle::Control,
    lease::lock,
    open::{DEAD_LETTERS, Lasting, Opened},
    run::{Ended, Phase},
    sink_task::SinkCommand,
    source_task::SourceCommand,
    stage_task::sleep,
    task::{Failure, Report},
};

/// The coordinator's ends of the tasks' channels.
#[derive(Default)]
pub(crate) struct Ends {
    pub(crate) sources: Vec<(String, mpsc::UnboundedSender<SourceCommand>)>,
    pub(crate) sinks: Vec<(String, mpsc::UnboundedSender<SinkCommand>)>,
    pub(crate) dead_letters: Option<mpsc::UnboundedSender<DeadLetterCommand>>,
    pub(crate) stages: usize,
    pub(crate) reports: Option<mpsc::UnboundedReceiver<Report>>,
}

/// What is known of an epoch that is under way.
pub(crate) struct Open {
    pub(crate) barrier: Barrier,
    pub(crate) cut_at: Instant,
    pub(crate) sources: BTreeMap<String, SourceCheckpoint>,
    /// What sources give to the host, by their names.
    pub(crate) companions: Vec<(String, Companion)>,
    pub(crate) state: Vec<(String, Vec<Change>)>,
    pub(crate) tokens: Vec<(String, Token)>,
    /// Reports of sources, stages and sinks that are still to come.
    missing: usize,
    letters_asked: bool,
    letters_done: bool,
}

/// What the run is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Run,
    /// Sources have stopped; when all epochs count, and so many more, the pipeline is built anew.
    Change(u32),
    /// Sources have stopped; what is in flight or parked is worked off.
    Drain,
    /// The last epoch has been cut.
    Last(Last),
}

/// How a turn of the coordinator ends that has not failed.
pub(crate) enum Turn {
    /// The pipeline is over.
    Ended(Ended),
    /// It stands at an epoch, and is to be built anew.
    Change,
}

/// Time between the epochs of a drain that waits for parked records.
const DRAIN_EVERY: Duration = Duration::from_millis(10);

pub(crate) struct Coordinator<'a> {
    pub(crate) lasting: &'a mut Lasting,
    pub(crate) opened: Opened,
    reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) control: &'a mut mpsc::UnboundedReceiver<Control>,
    pub(crate) phase: &'a tokio::sync::watch::Sender<Phase>,
    pub(crate) epochs: VecDeque<Open>,
    /// Newest epoch that was cut, and newest that counts.
    pub(crate) cut: Epoch,
    pub(crate) decided: Epoch,
    /// For each sink its tokens that may not have been made to count, and the newest one.
    pub(crate) tokens: BTreeMap<String, Vec<(Epoch, Token)>>,
    /// The newest segment that the state rests on: each checkpoint names it, so that a lost volume is noticed.
    pub(crate) segment: Option<(Epoch, u64)>,
    /// Time from the first record after an epoch to the next one.
    every: Duration,
    due: Option<Instant>,
    pub(crate) aim: Aim,
    sinks_ended: usize,
    /// Acknowledgements of the newest decision that are still to come.
    pub(crate) unacknowledged: usize,
    /// Who waits for an epoch to count.
    pub(crate) waiting: Vec<(Epoch, tokio::sync::oneshot::Sender<Epoch>)>,
    /// When a drain gives up on what is parked, and when on everything.
    pub(crate) patience: Option<Instant>,
    pub(crate) abort_at: Option<Instant>,
}

impl<'a> Coordinator<'a> {
    pub(crate) fn new(
        lasting: &'a mut Lasting,
        mut opened: Opened,
        control: &'a mut mpsc::UnboundedReceiver<Control>,
        phase: &'a tokio::sync::watch::Sender<Phase>,
    ) -> Self {
        let found = opened.checkpoint.take();
        let decided = found.as_ref().map_or(0, |checkpoint| checkpoint.epoch);
        let segment = found.as_ref().and_then(|checkpoint| checkpoint.segments.last().copied());
        let tokens = found.map(|checkpoint| checkpoint.sinks).unwrap_or_default();
        // A transaction must not get older than its system allows.
        let age_max = lasting.host.as_ref().and_then(|host| host.age_max());
        let every = lasting.plan.checkpoint.every.0.min(age_max.unwrap_or(FAR));
        let reports = opened.ends.reports.take().unwrap_or_else(|| mpsc::unbounded_channel().1);
        let waiting: Vec<_> = lasting.asked.drain(..).map(|answer| (decided + 1, answer)).collect();
        if decided == 0 || !waiting.is_empty() {
            // Fixes where everybody started, before the first record is read.
            opened.pace.urge();
        }
        Coordinator {
            lasting,
            opened,
            reports,
            control,
            phase,
            epochs: VecDeque::new(),
            cut: decided,
            decided,
            tokens,
            segment,
            every,
            due: None,
            aim: Aim::Run,
            sinks_ended: 0,
            unacknowledged: 0,
            waiting,
            patience: None,
            abort_at: None,
        }
    }

    /// Runs until the pipeline has ended, or is to be built anew, or cannot go on.
    pub(crate) async fn run(mut self) -> Result<Turn, Failure> {
        if let Some(deadline) = self.lasting.drain {
            self.drain(deadline);
        }
        let turn = self.work().await;
        *lock(&self.lasting.shared.begun) = None;
        // The steps that still live are told, so that they can let go of what they hold.
        let Opened { cut, mut closing, .. } = self.opened;
        drop(cut);
        if tokio::time::timeout(CLOSING_WAIT, closing.recv()).await.is_err() {
            tell_unclosed(&self.lasting.plan.name);
        }
        // Nobody may write any more when the next tasks open.
        self.opened.tasks.shutdown().await;
        turn
    }

    async fn work(&mut self) -> Result<Turn, Failure> {
        loop {
            if let Some(stopped) = self.advance().await? {
                return Ok(Turn::Ended(stopped));
            }
            if let Some(ended) = self.done() {
                return self.close(ended).await.map(Turn::Ended);
            }
            if self.changed() {
                return Ok(Turn::Change);
            }
            *lock(&self.lasting.shared.begun) = self.begun();
            let pace = self.opened.pace.clone();
            // Looked at once: a wish between two looks would neither be done nor be listened for.
            let urgent = pace.is_urgent();
            if urgent && self.aim == Aim::Run && self.has_room() {
                continue;
            }
            let listens = self.has_room() && !urgent;
            let due = self.due.filter(|_| listens);
            tokio::select! {
                biased;
                Some(joined) = self.opened.tasks.join_next() => self.joined(joined)?,
                Some(report) = self.reports.recv() => self.heard(report),
                Some(control) = self.control.recv() => if let Some(ended) = self.obey(control) { return Ok(Turn::Ended(ended)) },
                () = pace.changed(), if listens => self.arm(),
                () = sleep(due) => self.pace_now(),
                () = sleep(self.patience) => self.patience = None,
                () = sleep(self.abort_at) => return Err(too_late()),
            }
        }
    }

    /// Does everything that can be done without waiting for a task; an answer if it was told to stop meanwhile.
    async fn advance(&mut self) -> Result<Option<Ended>, Failure> {
        if self.aim == Aim::Run && self.all_ended() {
            let last = if self.lasting.options.until_end || self.lasting.options.count.is_some() {
                Last::Drained
            } else {
                Last::Finished
            };
            self.cut_last(last);
        }
        if self.aim == Aim::Drain && self.epochs.is_empty() && self.unacknowledged == 0 {
            match (self.patience.is_some(), self.opened.pace.is_active()) {
                (true, _) if !self.nothing_parked() => self.arm(),
                // Its outcomes may park more.
                (true, true) => self.cut_now(Last::No),
                _ => self.cut_last(Last::Drained),
            }
        }
        if self.aim == Aim::Run && self.lasting.change.is_some() && self.has_room() {
            self.begin_change();
        }
        if self.aim == Aim::Run && self.opened.pace.is_urgent() && self.has_room() {
            self.cut_now(Last::No);
        }
        while self.ready() {
            if let Some(stopped) = self.decide().await? {
                return Ok(Some(stopped));
            }
        }
        Ok(None)
    }

    /// Whether all of the oldest epoch is known; asks the dead-letter sink, the last one, when all others are done.
    fn ready(&mut self) -> bool {
        let Some(open) = self.epochs.front_mut() else { return false };
        if open.missing == 0 && !open.letters_asked {
            open.letters_asked = true;
            if let Some(letters) = &self.opened.ends.dead_letters {
                // A task that has gone is noticed by its join.
                let _ = letters.send(DeadLetterCommand::Barrier(open.barrier));
            }
        }
        open.letters_done
    }

    fn has_room(&self) -> bool {
        self.epochs.len() < self.lasting.plan.checkpoint.in_flight.max(1) as usize
    }

    fn all_ended(&self) -> bool {
        self.sinks_ended == self.opened.ends.sinks.len()
    }

    fn nothing_parked(&self) -> bool {
        self.lasting.shared.metrics.read().values().all(|stage| stage.parked == 0)
    }

    fn arm(&mut self) {
        if self.opened.pace.is_active() && self.due.is_none() {
            // A drain wants to know soon what has become of the parked records.
            let every = if self.aim == Aim::Drain { self.every.min(DRAIN_EVERY) } else { self.every };
            self.due = Some(Instant::now() + every);
        }
    }

    fn pace_now(&mut self) {
        self.due = None;
        // The last epoch is the last one: only its checkpoint says how the run ended.
        if self.opened.pace.is_active() && matches!(self.aim, Aim::Run | Aim::Drain) {
            self.cut_now(Last::No);
        }
    }

    /// Since when the oldest epoch that does not count yet has records.
    fn begun(&self) -> Option<std::time::Instant> {
        let due = self.due.and_then(|due| due.checked_sub(self.every));
        self.epochs.front().map(|open| open.cut_at).or(due).map(Instant::into_std)
    }

    pub(crate) fn cut_now(&mut self, last: Last) {
        self.due = None;
        self.opened.pace.cut();
        self.cut += 1;
        let halts = last != Last::No || self.aim == Aim::Change(0);
        let barrier = Barrier { epoch: self.cut, last, halts };
        self.opened.cut.send_replace(self.cut);
        let ends = &self.opened.ends;
        let missing = ends.sources.len() + ends.stages + ends.sinks.len();
        for (_, source) in &ends.sources {
            // A task that has gone is noticed by its join.
            let _ = source.send(SourceCommand::Barrier(barrier));
        }
        self.epochs.push_back(Open {
            barrier,
            cut_at: Instant::now(),
            sources: BTreeMap::new(),
            companions: Vec::new(),
            state: Vec::new(),
            tokens: Vec::new(),
            missing,
            letters_asked: false,
            letters_done: false,
        });
    }

    fn cut_last(&mut self, last: Last) {
        self.aim = Aim::Last(last);
        self.cut_now(last);
    }

    fn heard(&mut self, report: Report) {
        match report {
            Report::Source { source, epoch, checkpoint, companion } => {
                let name = self.opened.ends.sources[source].0.clone();
                self.of(epoch, |open| {
                    open.companions.extend(companion.map(|companion| (name.clone(), companion)));
                    open.sources.insert(name, checkpoint);
                });
            }
            Report::State { epoch, state } => self.of(epoch, |open| open.state.extend(state)),
            Report::Sink { sink, epoch, token, state } => {
                let name = self.opened.ends.sinks[sink].0.clone();
                self.of(epoch, |open| {
                    open.state.extend(state);
                    open.tokens.extend(token.map(|token| (name, token)));
                });
            }
            Report::DeadLetters { epoch, token } => {
                if let Some(open) = self.epochs.iter_mut().find(|open| open.barrier.epoch == epoch) {
                    open.tokens.extend(token.map(|token| (DEAD_LETTERS.to_owned(), token)));
                    open.letters_done = true;
                }
            }
            Report::Committed { sink, epoch } => {
                let name = &self.opened.ends.sinks[sink].0;
                forget_committed(self.tokens.get_mut(name), epoch);
                self.unacknowledged = self.unacknowledged.saturating_sub(1);
            }
            Report::Acknowledged => self.unacknowledged = self.unacknowledged.saturating_sub(1),
            Report::Ended => self.sinks_ended += 1,
        }
    }

    fn of(&mut self, epoch: Epoch, note: impl FnOnce(&mut Open)) {
        if let Some(open) = self.epochs.iter_mut().find(|open| open.barrier.epoch == epoch) {
            open.missing = open.missing.saturating_sub(1);
            note(open);
        }
    }
}

/// Tokens up to `epoch` count; the newest is kept, because it holds the mark for the next recovery.
pub(crate) fn forget_committed(tokens: Option<&mut Vec<(Epoch, Token)>>, epoch: Epoch) {
    if let Some(tokens) = tokens {
        let newest = tokens.iter().map(|(of, _)| *of).filter(|of| *of <= epoch).max().unwrap_or(0);
        tokens.retain(|(of, _)| *of >= newest);
    }
}
