//! Waiting for files to change without asking all the time.
//!
//! One inotify instance and one thread serve all sources of the process, because the kernel allows a user only 128
//! instances by default and there may be a thousand pipelines. The thread sleeps in a read: idle sources cost nothing
//! but a look every [`BACKSTOP`]. Where the kernel does not tell (network file systems, other systems, no watches left),
//! sources look every [`POLL_MIN`] to [`POLL_MAX`], the longer the quieter it is.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Even a watched file is looked at this often, in case an event was lost: 1,000 idle sources make 100 looks a second.
const BACKSTOP: Duration = Duration::from_secs(10);
/// First wait of a source that polls: what a person does not notice.
const POLL_MIN: Duration = Duration::from_millis(10);
/// Longest wait of a source that polls.
const POLL_MAX: Duration = Duration::from_millis(250);

/// One source's interest in some folders.
#[derive(Debug)]
pub(crate) struct Watch {
    bell: Arc<Bell>,
    folders: BTreeSet<PathBuf>,
    /// Every folder is watched by the kernel.
    told: bool,
    quiet: u32,
    /// When to look even if nobody rings; it outlives a wait that is given up.
    look_at: Option<Instant>,
}

/// What an event rings.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Notify,
    /// Files have come, gone or changed their names since the last look.
    names: AtomicBool,
    /// A folder has gone, and its watch with it.
    lost: AtomicBool,
    /// Only files whose names begin so matter: their folder may be busy with others.
    prefix: Option<String>,
}

impl Bell {
    /// `name`: the file that it is about, if it is about one.
    fn ring(&self, name: Option<&[u8]>, names: bool) {
        if let (Some(name), Some(prefix)) = (name, &self.prefix)
            // With or without the dot that hides what we publish beside a file.
            && !name.strip_prefix(b".").unwrap_or(name).starts_with(prefix.as_bytes())
        {
            return;
        }
        if names {
            self.names.store(true, Ordering::Release);
        }
        self.rung.notify_one();
    }

    /// Whether names have changed since the last call.
    pub(crate) fn take_names(&self) -> bool {
        self.names.swap(false, Ordering::AcqRel)
    }
}

impl Watch {
    /// Watches nothing yet. Only files whose names begin with `prefix` will matter.
    pub(crate) fn new(prefix: Option<String>) -> Self {
        let bell = Arc::new(Bell { prefix, ..Bell::default() });
        Watch { bell, folders: BTreeSet::new(), told: false, quiet: 0, look_at: None }
    }

    /// The bell that the kernel rings.
    pub(crate) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Watches these folders, and no others.
    pub(crate) fn set(&mut self, folders: &BTreeSet<PathBuf>) {
        if self.folders == *folders {
            return;
        }
        kernel::remove(&self.bell, &self.folders);
        self.told = !folders.is_empty();
        for folder in folders {
            self.told &= kernel::add(&self.bell, folder);
        }
        self.folders = folders.clone();
        // What has changed since they were looked at, and before they were watched, nobody tells.
        self.bell.ring(None, true);
    }

    /// Waits until something may have changed, at most `most`. Cancel-safe: who waits again goes on with the same wait.
    pub(crate) async fn changed(&mut self, most: Option<Duration>) {
        if self.bell.lost.swap(false, Ordering::AcqRel) {
            // The next `set` begins anew; a folder may be there again under its name.
            kernel::remove(&self.bell, &std::mem::take(&mut self.folders));
            (self.told, self.look_at) = (false, None);
        }
        let usual = if self.told { BACKSTOP } else { POLL_MIN.saturating_mul(1 << self.quiet.min(8)).min(POLL_MAX) };
        let wait = most.map_or(usual, |most| most.min(usual));
        let look_at = *self.look_at.get_or_insert_with(|| Instant::now() + wait);
        // Running out of time is as good a reason to look as being told.
        let _ = tokio::time::timeout_at(look_at, self.bell.rung.notified()).await;
        self.look_at = None;
        self.quiet = self.quiet.saturating_add(1);
    }

    /// Records have come: polling is quick again.
    pub(crate) fn busy(&mut self) {
        self.quiet = 0;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        kernel::remove(&self.bell, &self.folders);
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::{
        collections::{BTreeSet, HashMap},
        mem::MaybeUninit,
        os::fd::OwnedFd,
        path::{Path, PathBuf},
        sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
        time::Duration,
    };

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

    use super::{Bell, Ordering};

    /// A file that is written all the time wakes the thread at most 200 times a second; the kernel merges the rest.
    const PAUSE: Duration = Duration::from_millis(5);
    /// Room for some hundred events a read.
    const EVENTS_BYTES: usize = 16 << 10;
    /// File systems that change without this kernel's doing: NFS, SMB, CIFS, SMB2, FUSE, 9P, AFS, Ceph.
    const REMOTE: [u32; 8] =
        [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x6573_5546, 0x0102_1997, 0x5346_414f, 0x00c3_6400];

    struct Hub {
        inotify: Arc<OwnedFd>,
        watched: Mutex<Watched>,
    }

    #[derive(Default)]
    struct Watched {
        /// Whom to tell, by watch descriptor.
        bells: HashMap<i32, Vec<Weak<Bell>>>,
        descriptors: HashMap<PathBuf, i32>,
    }

    fn hub() -> Option<&'static Hub> {
        static HUB: OnceLock<Option<Hub>> = OnceLock::new();
        static THREAD: OnceLock<bool> = OnceLock::new();
        let hub = HUB.get_or_init(|| {
            let inotify = inotify::init(CreateFlags::CLOEXEC).ok()?;
            Some(Hub { inotify: Arc::new(inotify), watched: Mutex::default() })
        });
        let hub = hub.as_ref()?;
        let name = "millstream-file-watch".to_owned();
        let running = THREAD.get_or_init(|| std::thread::Builder::new().name(name).spawn(move || listen(hub)).is_ok());
        running.then_some(hub)
    }

    /// Tells `bell` what happens in `folder`; answers whether the kernel will.
    pub(super) fn add(bell: &Arc<Bell>, folder: &Path) -> bool {
        let remote = |folder: &Path| {
            // The field's type differs between machines; all magic numbers have 32 bits.
            rustix::fs::statfs(folder).map_or(true, |statfs| REMOTE.contains(&(statfs.f_type as u32)))
        };
        let Some(hub) = hub().filter(|_| !remote(folder)) else { return false };
        let mut watched = hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let Ok(descriptor) = inotify::add_watch(&*hub.inotify, folder, flags) else { return false };
        watched.bells.entry(descriptor).or_default().push(Arc::downgrade(bell));
        watched.descriptors.insert(folder.to_owned(), descriptor);
        true
    }

    pub(super) fn remove(bell: &Arc<Bell>, folders: &BTreeSet<PathBuf>) {
        let Some(hub) = hub().filter(|_| !folders.is_empty()) else { return };
        let mut watched = hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for folder in folders {
            let Some(descriptor) = watched.descriptors.get(folder).copied() else { continue };
            let Some(bells) = watched.bells.get_mut(&descriptor) else { continue };
            bells.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(bell)));
            if bells.is_empty() {
                watched.bells.remove(&descriptor);
                watched.descriptors.retain(|_, other| *other != descriptor);
                // It fails if the folder is gone, and then the watch is too.
                let _ = inotify::remove_watch(&*hub.inotify, descriptor);
            }
        }
    }

    fn listen(hub: &Hub) {
        let mut buffer = vec![MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = Reader::new(&*hub.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(std::ffi::CStr::to_bytes);
                    tell(hub, event.wd(), event.events(), name);
                }
                Err(rustix::io::Errno::INTR) => continue,
                // Sources then find changes by their backstop.
                Err(error) => {
                    tracing::warn!(%error, "cannot hear of changed files any more; looking every few seconds instead");
                    return;
                }
            }
            if reader.is_buffer_empty() {
                std::thread::sleep(PAUSE);
            }
        }
    }

    fn tell(hub: &Hub, descriptor: i32, what: ReadFlags, name: Option<&[u8]>) {
        let mut watched = hub.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let names = what != ReadFlags::MODIFY;
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            watched.bells.values().flatten().filter_map(Weak::upgrade).for_each(|bell| bell.ring(None, true));
            return;
        }
        let bells = watched.bells.get(&descriptor);
        let gone = what.contains(ReadFlags::IGNORED);
        for bell in bells.into_iter().flatten().filter_map(Weak::upgrade) {
            bell.lost.fetch_or(gone, Ordering::AcqRel);
            bell.ring(name, names);
        }
        if gone {
            watched.bells.remove(&descriptor);
            watched.descriptors.retain(|_, other| *other != descriptor);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::path::Path;

    use super::{Arc, BTreeSet, Bell, PathBuf};

    pub(super) fn add(_: &Arc<Bell>, _: &Path) -> bool {
        false
    }

    pub(super) fn remove(_: &Arc<Bell>, _: &BTreeSet<PathBuf>) {}
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_wait_that_is_given_up_again_and_again_comes_to_its_end() {
        let mut watch = Watch::new(None);
        let given_up = async {
            let most = Some(Duration::from_millis(50));
            while timeout(Duration::from_millis(5), watch.changed(most)).await.is_err() {}
        };
        assert!(timeout(BACKSTOP, given_up).await.is_ok());
    }

    #[tokio::test]
    async fn what_changed_before_a_folder_was_watched_is_looked_for() {
        let mut watch = Watch::new(None);
        watch.set(&BTreeSet::from([std::env::temp_dir()]));
        assert!(watch.bell().take_names());
        assert!(timeout(BACKSTOP / 2, watch.changed(None)).await.is_ok());
    }
}
