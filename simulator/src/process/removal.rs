//! Removal of what is old in a simulated process, by age alone, at any hour: a part of what `src/processor/retention.rs` does.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use shards::message_store::QueueStarts;
use shards::retention::{DiskSurvey, Moment, RetentionRules, decide};

use super::{Host, Process, at_once};

type Answer<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// What the side thread was asked for.
#[derive(Default)]
pub(super) enum Retaining {
    #[default]
    Nothing,
    Survey(Answer<DiskSurvey>),
    Removal(Answer<QueueStarts>),
}

impl Process {
    /// It is time to look whether files of the log are old.
    pub(super) fn look_at_ages(&mut self) {
        if matches!(self.retaining, Retaining::Nothing) {
            let mut survey: Answer<DiskSurvey> = Box::pin(self.store.survey());
            assert!(at_once(survey.as_mut()).is_none(), "the side thread answers in its turn");
            self.retaining = Retaining::Survey(survey);
        }
    }

    /// Goes on with what the side thread has answered.
    pub(super) fn remove_what_is_old(&mut self, host: &mut Host<'_>) {
        match std::mem::take(&mut self.retaining) {
            Retaining::Nothing => {}
            Retaining::Survey(mut survey) => match at_once(survey.as_mut()) {
                Some(Ok(survey)) => self.retaining = self.begin_removal(&survey, host),
                // The disk refuses; the next look asks again.
                Some(Err(_)) => {}
                None => self.retaining = Retaining::Survey(survey),
            },
            Retaining::Removal(mut removal) => match at_once(removal.as_mut()) {
                Some(Ok(starts)) => self.store.removed(starts),
                Some(Err(_)) => {}
                None => self.retaining = Retaining::Removal(removal),
            },
        }
    }

    fn begin_removal(&mut self, survey: &DiskSurvey, host: &mut Host<'_>) -> Retaining {
        let Some(reserved_ms) = self.shape.reserved_ms else { return Retaining::Nothing };
        let rules =
            RetentionRules { reserved: Duration::from_millis(reserved_ms), ..RetentionRules::default() };
        let moment = Moment {
            now_ms: host.now_ms,
            is_due: true,
            segment_bytes: self.shape.segment_bytes,
            written_end: self.store.written_end(),
            longer: &[],
        };
        let Some(removal) = decide(&rules, survey, &moment) else { return Retaining::Nothing };
        let reserved_ms = i64::try_from(reserved_ms).expect("some seconds");
        host.oracle.removes(removal.before, host.now_ms, reserved_ms);
        host.trace.note(host.now_us, format_args!("removes {removal:?}"));
        let mut removed: Answer<QueueStarts> =
            Box::pin(self.store.remove_before(removal.before, rules.expired_above_percent));
        assert!(at_once(removed.as_mut()).is_none(), "the side thread answers in its turn");
        Retaining::Removal(removed)
    }
}
