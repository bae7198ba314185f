//! Delayed messages of a simulated process, as `src/processor/delayed.rs` delivers them.

use bytes::BytesMut;
use shards::append::AppendBatch;
use shards::dispatch::SCHEDULE_TOPIC;
use shards::limits::PULL_MESSAGES_MAX;
use shards::message_store::{GetResult, GetStatus, ReadError};
use shards::position::QueueOffset;
use shards::record::RecordView;

use ringmq::broker::delay_schedule::{DelayLevel, Due};

use super::reads::records_of;
use super::{Host, MachineOff, Process, Timer, UNREADABLE_PAUSE_MS, Waiting};
use crate::bug::Bug;
use crate::message;

impl Process {
    pub(super) fn plan_delay_look(&mut self, host: &mut Host<'_>) {
        if self.log.closed().is_some() {
            return;
        }
        let Some(wait_ms) = self.delay.wait_ms(host.now_ms + self.hurry_ms()) else { return };
        let at_us = host.now_us + u64::try_from(wait_ms).expect("not negative") * 1000;
        if self.delay_look_us.is_none_or(|planned_us| at_us < planned_us) {
            self.delay_look_us = Some(at_us);
            host.after(at_us - host.now_us, Timer::DelayLook);
        }
    }

    fn hurry_ms(&self) -> i64 {
        if self.bug == Some(Bug::TimerFiredEarly) { 700 } else { 0 }
    }

    pub(super) fn deliver_due(&mut self, host: &mut Host<'_>) -> Result<(), MachineOff> {
        let now_ms = host.now_ms + self.hurry_ms();
        while let Some(due) = self.delay.due(now_ms) {
            if self.log.closed().is_some() {
                return Ok(());
            }
            let queue_id = due.level.queue_id();
            let read =
                self.get(SCHEDULE_TOPIC, queue_id, due.next.get(), due.messages_max.min(PULL_MESSAGES_MAX));
            if self.disk.is_off() {
                return Err(MachineOff);
            }
            self.deliver(&due, &read, now_ms, host);
        }
        Ok(())
    }

    fn deliver(&mut self, due: &Due, read: &Result<GetResult, ReadError>, now_ms: i64, host: &mut Host<'_>) {
        let level = due.level;
        let Ok(result) = read else {
            self.delay.look_at(level, Some(now_ms + UNREADABLE_PAUSE_MS));
            return;
        };
        if result.status != GetStatus::Found {
            if result.next_begin_offset > due.next {
                let gone = due.next.get()..result.next_begin_offset.get();
                host.oracle.skipped((SCHEDULE_TOPIC, level.queue_id()), gone);
                self.delay.skipped(level, result.next_begin_offset);
            }
            let next = due.next.max(result.next_begin_offset);
            let end = self.store.bounds(SCHEDULE_TOPIC, level.queue_id()).map_or(next, |bounds| bounds.max);
            self.delay.look_at(level, (next < end).then_some(now_ms));
            return;
        }
        let mut next = due.next;
        for record in records_of(result) {
            let at = record.queue_offset();
            host.oracle.skipped((SCHEDULE_TOPIC, level.queue_id()), next.get()..at.get());
            host.oracle.read((SCHEDULE_TOPIC, level.queue_id()), at.get(), &record);
            if let Err(look_at_ms) = self.delay.judge(level, record.store_timestamp_ms(), now_ms) {
                self.delay.look_at(level, Some(look_at_ms));
                return;
            }
            next = record.queue_offset().plus(1);
            self.deliver_one(level, next, &record, host);
        }
        let end = self.store.bounds(SCHEDULE_TOPIC, level.queue_id()).map_or(next, |bounds| bounds.max);
        self.delay.look_at(level, (next < end).then_some(now_ms));
    }

    fn deliver_one(
        &mut self,
        level: DelayLevel,
        after: QueueOffset,
        record: &RecordView<'_>,
        host: &mut Host<'_>,
    ) {
        let mut records = BytesMut::new();
        let Some(given) = message::encode_delivered(&mut records, record) else {
            self.delay.skipped(level, after);
            host.oracle.violate(format!("{record:?} has lost its real topic"));
            return;
        };
        let id = given.id;
        let delay_ms = self.delay.delays().delays_ms()[level.queue_id() as usize];
        host.oracle.delivers(id, record.store_timestamp_ms(), delay_ms, host.now_ms);
        host.oracle.given(given);
        self.delay.delivering(level, after);
        if self.bug == Some(Bug::DeliveredBeforeStored) {
            self.delay.completed(level, after, true, host.now_ms);
        }
        self.waiting.push_back(Waiting::Delay { id, level, delivered: after });
        self.log.append(AppendBatch { records: records.freeze(), count: 1 }, host.now_ms);
    }
}
