//! A sink of the system with transactions.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Host, Last, Outcomes, Result, Share, Sink, SinkCapabilities, SinkPlan, Token, Way,
    WriteId,
};

use crate::host::{FakeServer, SYSTEM, Transaction, lock};

/// A sink that writes to a topic of a [`FakeServer`]: in the host's transaction where it has joined one, else at once.
#[derive(Clone, Debug)]
pub struct FakeTopic {
    pub(crate) server: FakeServer,
    pub(crate) name: String,
}

impl SinkPlan for FakeTopic {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities { way: Way::Hosting, ..SinkCapabilities::WHOLE }
    }

    fn describe(&self) -> String {
        format!("{SYSTEM}/{}", self.name)
    }

    fn transaction(&self) -> Option<String> {
        Some(SYSTEM.to_owned())
    }

    fn host(&self) -> Result<Box<dyn Host>> {
        Ok(self.server.host())
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Writer { plan: self.clone(), joined: None, prepared: None, next: 0, rejected: Vec::new() }))
    }
}

struct Writer {
    plan: FakeTopic,
    joined: Option<Arc<Mutex<Transaction>>>,
    /// The transaction for which it has prepared: it must write no more into that one.
    prepared: Option<u64>,
    next: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
}

#[async_trait]
impl Sink for Writer {
    fn join(&mut self, share: &Share) -> Result<()> {
        let joined = share.clone().downcast::<Mutex<Transaction>>();
        self.joined =
            Some(joined.map_err(|_| Error::new(ErrorKind::Bug, "this is no transaction of the fake server"))?);
        Ok(())
    }

    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let mut state = self.plan.server.lock();
        if !state.write_failures.is_empty() {
            return Err(state.write_failures.remove(0));
        }
        let mut transaction = self.joined.as_deref().map(lock);
        if let Some(transaction) = &transaction {
            state.owns(transaction)?;
            if self.prepared == Some(transaction.number) {
                return Err(state.violated("a record of the next epoch was written before this one was decided"));
            }
        }
        self.next += 1;
        for (row, record) in batch.into_bytes().iter().enumerate() {
            let value = record.value().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            let rejection = state.rejections.get_mut(&(self.plan.name.clone(), value));
            let refused = rejection.filter(|(times, _)| *times > 0).map(|(times, error)| {
                *times -= 1;
                error.clone()
            });
            match (refused, &mut transaction) {
                (Some(error), transaction) => {
                    self.rejected.push((self.next, row as u32, error));
                    transaction.iter_mut().for_each(|transaction| transaction.lost = true);
                }
                (None, Some(transaction)) => transaction.writes.push((self.plan.name.clone(), record.to_record())),
                (None, None) => state.kept.topics.entry(self.plan.name.clone()).or_default().push(record.to_record()),
            }
        }
        Ok(self.next)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        let mut state = self.plan.server.lock();
        if !state.flush_failures.is_empty() {
            return Err(state.flush_failures.remove(0));
        }
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _: Epoch, _: Last) -> Result<Option<Token>> {
        self.prepared = self.joined.as_deref().map(|transaction| lock(transaction).number);
        Ok(None)
    }
}
