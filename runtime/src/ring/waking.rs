//! How other threads wake a task of a core: they leave it in a list, and if the core sleeps in the kernel they end its sleep through
//! an eventfd.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use async_task::Runnable;

/// What the threads that wake tasks of a core share with it.
pub(super) struct Waking {
    woken: Mutex<Vec<Runnable>>,
    sleeping: AtomicBool,
    event: OwnedFd,
}

impl Waking {
    /// # Errors
    /// No descriptor is left.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no memory.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { woken: Mutex::default(), sleeping: AtomicBool::new(false), event })
    }

    /// What the core reads eight bytes from to be woken.
    pub(super) fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Hands a task of the core over, from another thread.
    pub(super) fn wake(&self, runnable: Runnable) {
        self.woken().push(runnable);
        // Between what was pushed and the look at `sleeping`, as in `prepare_to_sleep` the other way round: one of the two sees the
        // other.
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let one = 1u64;
            // SAFETY: the descriptor is open as long as `self`, and the eight bytes live for the call.
            let written = unsafe { libc::write(self.event.as_raw_fd(), (&raw const one).cast(), 8) };
            assert_eq!(written, 8, "an eventfd takes a one unless its counter is near 2^64");
        }
    }

    /// Takes what other threads woke.
    pub(super) fn take(&self, into: &mut Vec<Runnable>) {
        into.append(&mut self.woken());
    }

    /// Announces that the core goes to sleep. False when there is something to do first.
    pub(super) fn prepare_to_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let may_sleep = self.woken().is_empty();
        if !may_sleep {
            self.awake();
        }
        may_sleep
    }

    /// Announces that the core is awake: nobody has to wake it.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    fn woken(&self) -> MutexGuard<'_, Vec<Runnable>> {
        self.woken.lock().expect("no holder of the list panics")
    }
}
