//! Ports that nobody else takes between two starts of a server.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::SystemTime,
};

/// Below the ports that systems give to outgoing connections (32768 and up), above those of well-known services.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Who holds a port here, holds it for its server on 127.0.0.1: the system gives it back however we end.
const CLAIMS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A free port of 127.0.0.1, ours until this is dropped, whether something listens on it or not.
///
/// Other tests that claim ports, in whatever process, get others.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: TcpListener,
}

impl Port {
    /// Finds a free port.
    pub fn claim() -> Port {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Processes that start together begin at different ports, which only saves tries.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
        let first = process::id().wrapping_mul(2_654_435_761) ^ now;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            // Below COUNT, which is a u16.
            let number = FIRST + (first.wrapping_add(step) % u32::from(COUNT)) as u16;
            let Ok(claim) = TcpListener::bind((CLAIMS, number)) else { continue };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _claim: claim };
            }
        }
        panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
