//! The results of appends on their way back, strictly in append order.

use std::collections::VecDeque;

use crate::append::{AppendOutcome, AppendRefusal, Placement};
use crate::position::PhysicalOffset;

/// Results that are not given out yet. One that need not wait for the disk still waits for all before it.
#[derive(Debug, Default)]
pub(crate) struct OutcomeQueue {
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
enum Waiting {
    /// May be given out when everything before `end` is durable.
    Placed {
        placement: Placement,
        end: PhysicalOffset,
    },
    Refused(AppendRefusal),
}

impl Waiting {
    fn is_ready(&self, durable_end: PhysicalOffset) -> bool {
        match self {
            Self::Placed { end, .. } => *end <= durable_end,
            Self::Refused(_) => true,
        }
    }
}

impl OutcomeQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the first result may be given out when everything before `durable_end` is durable.
    pub(crate) fn is_ready(&self, durable_end: PhysicalOffset) -> bool {
        self.waiting.front().is_some_and(|waiting| waiting.is_ready(durable_end))
    }

    pub(crate) fn placed(&mut self, placement: Placement, end: PhysicalOffset) {
        self.waiting.push_back(Waiting::Placed { placement, end });
    }

    pub(crate) fn refused(&mut self, refusal: AppendRefusal) {
        self.waiting.push_back(Waiting::Refused(refusal));
    }

    /// Turns everything that is not given out into a refusal.
    pub(crate) fn refuse_all(&mut self, refusal: &AppendRefusal) {
        for waiting in &mut self.waiting {
            *waiting = Waiting::Refused(refusal.clone());
        }
    }

    /// Takes what may be given out when everything before `durable_end` is durable. Moves `confirm_offset` to the end
    /// of the last placed record among them.
    pub(crate) fn take(
        &mut self,
        durable_end: PhysicalOffset,
        confirm_offset: &mut PhysicalOffset,
    ) -> Vec<AppendOutcome> {
        let ready = self.waiting.iter().take_while(|waiting| waiting.is_ready(durable_end)).count();
        self.waiting
            .drain(..ready)
            .map(|waiting| match waiting {
                Waiting::Placed { placement, end } => {
                    assert!(
                        *confirm_offset <= placement.physical_offset,
                        "records are confirmed in log order"
                    );
                    *confirm_offset = end;
                    AppendOutcome::Placed(placement)
                }
                Waiting::Refused(refusal) => AppendOutcome::Refused(refusal),
            })
            .collect()
    }
}
