//! Noticing that the reader of standard output has gone away, also while there is nothing to write: `| head`.

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

/// Waits until nobody reads standard output any more; for ever where it is no pipe. Cancel-safe.
pub(crate) struct Reader(oneshot::Receiver<()>);

impl Reader {
    /// Watches from now on, in a thread that ends with the process.
    pub(crate) fn new() -> Self {
        let (gone, waits) = oneshot::channel();
        std::thread::spawn(move || {
            let stdout = std::io::stdout();
            // Without events asked for, only an error or a hang-up is told: a pipe whose other end is closed.
            let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
            if poll(&mut polled, None).is_ok() && polled[0].revents().contains(PollFlags::ERR) {
                // Whoever waited may be gone.
                let _ = gone.send(());
            }
        });
        Reader(waits)
    }

    pub(crate) async fn gone(&mut self) {
        if (&mut self.0).await.is_err() {
            std::future::pending().await
        }
    }
}
