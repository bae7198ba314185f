//! Tasks, time and waiting on one core.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::ring::core::current;

/// Starts `future` on this core, to run until it ends or the core stops. It begins when the caller has let go.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    if let Some(core) = current() {
        return core.spawn(future);
    }
    glommio::spawn_local(async move {
        // glommio would run it up to its first wait at once, inside the caller's borrows.
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
    match current() {
        Some(core) => core.sleep(duration).await,
        None => {
            glommio::timer::sleep(duration).await;
        }
    }
}

/// Lets the other ready tasks of this core run first, and looks what has arrived.
pub async fn yield_now() {
    match current() {
        Some(core) => core.yield_now().await,
        None => glommio::executor().yield_now().await,
    }
}

/// Lets other work run if this task has had its share of the core.
pub async fn yield_if_needed() {
    match current() {
        Some(core) if core.is_turn_over() => core.yield_now().await,
        Some(_) => {}
        None => {
            glommio::yield_if_needed().await;
        }
    }
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
