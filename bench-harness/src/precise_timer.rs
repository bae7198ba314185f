//! A timer of microseconds for the open loop: tokio's own rounds up to whole milliseconds, which would count as latency.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// One timer, used again for each wait.
#[derive(Debug)]
pub struct PreciseTimer {
    fd: AsyncFd<OwnedFd>,
}

impl PreciseTimer {
    /// A timer of the runtime that this is called in.
    ///
    /// # Errors
    /// The kernel gives no more timers or file descriptors.
    #[expect(
        deprecated,
        reason = "an OwnedFd stays open and the same, which is what the unsafe replacement asks to be promised"
    )]
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { fd: AsyncFd::new(fd)? })
    }

    /// Waits for `ns` nanoseconds.
    ///
    /// # Errors
    /// The kernel refuses the timer, which it has no reason to.
    pub async fn wait_ns(&self, ns: u64) -> io::Result<()> {
        if ns == 0 {
            return Ok(());
        }
        let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: part(ns / NS_PER_SECOND), tv_nsec: part(ns % NS_PER_SECOND) },
        };
        timerfd_settime(self.fd.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.fd.readable().await?;
            let mut expirations = [0; 8];
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut expirations)?)) {
                Ok(read) => return read.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[tokio::test(flavor = "current_thread")]
    async fn waits_at_least_as_long_as_told_each_time() {
        let timer = PreciseTimer::new().unwrap();
        for _ in 0..3 {
            let start = Instant::now();
            timer.wait_ns(300_000).await.unwrap();
            assert!(start.elapsed() >= Duration::from_micros(300));
        }
    }
}
