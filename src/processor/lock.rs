//! LOCK_BATCH_MQ and UNLOCK_BATCH_MQ: consumers in order take queues for themselves.

use super::{Call, Refusal, Served};
use crate::remoting::body::queue::{LockBatchRequestBody, LockBatchResponseBody};
use crate::remoting::fastjson;

/// LOCK_BATCH_MQ (41): answers with those of the queues that the client now holds.
pub fn lock(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let body: LockBatchRequestBody = call.request.json_body("LockBatchRequestBody")?;
    let locked = call.broker.borrow_mut().queue_locks.lock(
        &body.consumer_group,
        &body.client_id,
        &body.mq_set,
        call.now_ms,
    );
    call.ok(&[], &fastjson::write(&LockBatchResponseBody { locked }))
}

/// UNLOCK_BATCH_MQ (42): queues of other owners stay locked.
pub fn unlock(call: &Call<'_, '_>) -> Result<Served, Refusal> {
    let body: LockBatchRequestBody = call.request.json_body("UnlockBatchRequestBody")?;
    call.broker.borrow_mut().queue_locks.unlock(&body.consumer_group, &body.client_id, &body.mq_set);
    call.ok(&[], &[])
}
