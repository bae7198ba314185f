//! Tasks, time and waiting on one core.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Starts `future` on this core, to run until it ends or the core stops. It begins when the caller has let go: glommio would run it
/// up to its first wait at once, inside the caller's borrows.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(async move {
        begin_later().await;
        future.await;
    })
    .detach();
}

/// Ends at the second poll, and asks for it.
async fn begin_later() {
    let mut asked = false;
    poll_fn(|context| {
        if asked {
            return Poll::Ready(());
        }
        asked = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits for `duration`; the core does other work meanwhile.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Lets the other ready tasks of this core run first.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Lets other work run if this task has had its share of the core.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

/// A flag that one task of this core waits for and any other may raise. Raising it twice before the wait ends counts once.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiting task, or lets its next wait end at once.
    pub fn raise(&self) {
        self.raised.set(true);
        if let Some(waiter) = self.waiter.borrow_mut().take() {
            waiter.wake();
        }
    }

    /// The same as [`Self::wait`], but for at most `duration`. Returns whether the flag was raised.
    pub async fn wait_at_most(&self, duration: Duration) -> bool {
        let mut wait = pin!(self.wait());
        let mut sleep = pin!(sleep(duration));
        poll_fn(|context| {
            if wait.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            sleep.as_mut().poll(context).map(|()| false)
        })
        .await
    }

    /// Waits until the flag is raised, and lowers it.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::sync::mpsc;

    use super::*;
    use crate::io::executor::{CoreSpec, start_core, write_probe_file};
    use crate::io::host;

    fn on_a_core<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + Send + 'static) {
        let folder = tempfile::tempdir_in(".").unwrap();
        let spec = CoreSpec {
            name: "core-under-test".to_owned(),
            cpu: host::allowed_cpus().unwrap()[0],
            ring_depth: 64,
            spin: Duration::ZERO,
            locked_memory_bytes: 1 << 20,
            probe_file: write_probe_file(folder.path()).unwrap(),
        };
        let (report, ended) = mpsc::channel();
        let core = start_core(spec, move || async move {
            main().await;
            report.send(()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("the test ends");
        core.unwrap().join().unwrap().unwrap();
    }

    /// The story: a request handler that held its state borrowed started a task for the rest of the answer. The runtime ran the
    /// task at once, inside the call, and its own borrow failed and ended the process.
    #[test]
    fn a_task_begins_only_after_whoever_started_it_has_let_go() {
        on_a_core(|| async {
            let state = Rc::new(RefCell::new(1));
            let done = Rc::new(Signal::default());
            {
                let mut held = state.borrow_mut();
                let (state, done) = (Rc::clone(&state), Rc::clone(&done));
                spawn(async move {
                    *state.borrow_mut() *= 10;
                    done.raise();
                });
                *held += 1;
            }
            done.wait().await;
            assert_eq!(*state.borrow(), 20);
        });
    }

    #[test]
    fn a_wait_with_a_limit_ends_by_the_signal_or_by_the_limit() {
        on_a_core(|| async {
            let signal = Rc::new(Signal::default());
            assert!(!signal.wait_at_most(Duration::from_millis(1)).await);
            let raised = Rc::clone(&signal);
            spawn(async move { raised.raise() });
            assert!(signal.wait_at_most(Duration::from_secs(60)).await);
            signal.raise();
            assert!(signal.wait_at_most(Duration::ZERO).await, "raised before");
            assert!(!signal.wait_at_most(Duration::from_millis(1)).await, "and lowered by the wait");
        });
    }
}
