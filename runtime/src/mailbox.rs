//! Bounded mailboxes: how cores, and threads that are not cores, reach a core. The receiving core counts how long messages were on
//! their way.

use std::time::Instant;

use crate::meter::{Distribution, Meter};

/// A message, and when it was sent.
type Mail<T> = (Instant, T);

/// The end that travels: any thread may send.
#[derive(Debug)]
pub struct MailSender<T>(flume::Sender<Mail<T>>);

impl<T> Clone for MailSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The receiver is gone: its core has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the receiving core has stopped")]
pub struct MailboxClosed;

/// A message that was not sent at once.
#[derive(Debug)]
pub enum TrySendError<T> {
    /// The mailbox is full; here is the message again.
    Full(T),
    Closed(MailboxClosed),
}

impl<T> MailSender<T> {
    /// Sends, and waits on this core while the mailbox is full.
    pub async fn send(&self, message: T) -> Result<(), MailboxClosed> {
        self.0.send_async((Instant::now(), message)).await.map_err(|_| MailboxClosed)
    }

    /// Sends if there is room; gives the message back otherwise.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.0.try_send((Instant::now(), message)).map_err(|error| match error {
            flume::TrySendError::Full((_, message)) => TrySendError::Full(message),
            flume::TrySendError::Disconnected(_) => TrySendError::Closed(MailboxClosed),
        })
    }

    /// Sends, and blocks this thread while the mailbox is full. Never on a core.
    pub fn send_blocking(&self, message: T) -> Result<(), MailboxClosed> {
        self.0.send((Instant::now(), message)).map_err(|_| MailboxClosed)
    }
}

/// The end that stays: one core receives.
#[derive(Debug)]
pub struct Mailbox<T> {
    receiver: flume::Receiver<Mail<T>>,
    hops: Meter,
}

impl<T> Mailbox<T> {
    /// Waits for the next message; `None` when every sender is gone.
    pub async fn receive(&self) -> Option<T> {
        Some(self.opened(self.receiver.recv_async().await.ok()?))
    }

    /// A message that is already there: drain with this after [`Self::receive`], so that one wake serves a whole batch.
    pub fn receive_ready(&self) -> Option<T> {
        Some(self.opened(self.receiver.try_recv().ok()?))
    }

    /// Messages that wait.
    pub fn waiting(&self) -> usize {
        self.receiver.len()
    }

    /// How long the messages that were received had been on their way, nanoseconds.
    pub fn hops(&self) -> Distribution {
        self.hops.distribution()
    }

    fn opened(&self, (sent, message): Mail<T>) -> T {
        self.hops.record_time(sent.elapsed());
        message
    }
}

/// A mailbox that holds at most `messages_max`.
pub fn mailbox<T>(messages_max: usize) -> (MailSender<T>, Mailbox<T>) {
    let (sender, receiver) = flume::bounded(messages_max);
    (MailSender(sender), Mailbox { receiver, hops: Meter::default() })
}
