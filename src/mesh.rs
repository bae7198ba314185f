//! How cores talk: every message that crosses is a variant of one enum ([`message::Message`]), through one bounded mailbox per
//! receiving core.
//!
//! [`Mesh`] is a core's sending half. Posting never waits: what does not fit into the other core's mailbox lies in order in
//! a queue of ours until it does. Such a queue is bounded by what produces it: appends by the limit on bytes in flight, commits
//! by those appends, the rest by being rare. A message for the own core is handed over at once, without a channel.

pub mod message;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use runtime::mailbox::{MailSender, TrySendError};
use runtime::task::{self, Signal};
use tracing::warn;

use message::Message;

/// What a core does with a message.
pub type Handler = Rc<dyn Fn(Message)>;

/// The sending half of one core. Clones are the same mesh.
#[derive(Clone)]
pub struct Mesh {
    own: usize,
    lanes: Rc<[Lane]>,
    handler: Handler,
}

/// The way to one core.
struct Lane {
    sender: MailSender<Message>,
    /// In order; empty unless the mailbox was full.
    waiting: RefCell<VecDeque<Message>>,
    /// While the task of this lane sends what waited, later messages queue behind it.
    sending: Cell<bool>,
    more: Signal,
}

impl Mesh {
    /// Binds the senders to core `own`, on which this is called; `handler` serves what is posted to the own core.
    pub fn bind(own: usize, senders: Vec<MailSender<Message>>, handler: Handler) -> Self {
        let lane = |sender| Lane {
            sender,
            waiting: RefCell::default(),
            sending: Cell::new(false),
            more: Signal::default(),
        };
        let mesh = Self { own, lanes: senders.into_iter().map(lane).collect(), handler };
        for core in (0..mesh.lanes.len()).filter(|&core| core != own) {
            task::spawn(mesh.clone().send_waiting(core));
        }
        mesh
    }

    /// Sends `message` to core `core`, after everything posted to it before.
    pub fn post(&self, core: usize, message: Message) {
        if core == self.own {
            (self.handler)(message);
            return;
        }
        let lane = &self.lanes[core];
        let mut waiting = lane.waiting.borrow_mut();
        if lane.sending.get() {
            waiting.push_back(message);
            return;
        }
        match lane.sender.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                waiting.push_back(message);
                lane.sending.set(true);
                lane.more.raise();
            }
            Err(TrySendError::Closed(closed)) => warn!(core, %closed, "message dropped"),
        }
    }

    /// Messages that other cores have no room for.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.borrow().len()).sum()
    }

    async fn send_waiting(self, core: usize) {
        let lane = &self.lanes[core];
        loop {
            lane.more.wait().await;
            while let Some(message) = lane.take_first() {
                if let Err(closed) = lane.sender.send(message).await {
                    warn!(core, %closed, "message dropped");
                }
            }
            lane.sending.set(false);
        }
    }
}

impl Lane {
    fn take_first(&self) -> Option<Message> {
        self.waiting.borrow_mut().pop_front()
    }
}
