//! One connection of the load generator to one broker: a fixed number of places for requests under way, an output buffer that
//! collects requests until they are written at once, and the pairing of answers with requests.
//!
//! A lane knows no clock and no schedule: the generator tells it what to send and when it read.

use std::rc::Rc;

use bytes::BytesMut;
use ringmq::remoting::code::response;
use ringmq::remoting::frame::{Frame, split_frame};
use ringmq::remoting::request::Request;

use crate::send_frame::{OPAQUE_BASE, OPAQUE_COUNT, SendFrame};

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay {
    /// When it was to leave, nanoseconds of the run.
    pub intended_ns: u64,
    pub first_sequence: u64,
    /// Index of the queue among the lane's frames.
    frame: usize,
    opaque: u32,
}

/// What came back for a request.
#[derive(Debug)]
pub struct Answered {
    pub request: UnderWay,
    pub queue_id: u32,
    pub result: Result<u64, SendFailure>,
}

/// Why a request was not acknowledged.
#[derive(Debug)]
pub enum SendFailure {
    Refused {
        code: i32,
        remark: String,
    },
    /// Code SUCCESS, but not what an acknowledgement has to hold.
    Malformed(&'static str),
}

/// Bytes on a connection that are not the protocol, or an answer to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    #[error("the broker sent what is not a frame: {0}")]
    Frame(#[from] ringmq::remoting::frame::FrameError),
    #[error("the broker sent a header that cannot be read: {0}")]
    Header(#[from] ringmq::remoting::request::HeaderError),
    #[error("the broker answered request {0}, which is not under way")]
    StrayAnswer(i32),
}

/// The queues that a lane sends to in turn: their ids and ready-made requests.
#[derive(Debug)]
pub struct LaneQueue {
    pub queue_id: u32,
    pub frame: SendFrame,
}

/// The state of one connection.
///
/// Invariant: each place is either in `free` or `Some` in `places`.
#[derive(Debug)]
pub struct Lane {
    queues: Rc<[LaneQueue]>,
    next_queue: usize,
    places: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    /// Counts requests, so that an opaque is not used again soon.
    round: u32,
    output: Vec<u8>,
    written: usize,
}

impl Lane {
    /// A lane with `places` requests under way at most; it starts with the queue `first_queue`, so that lanes do not all
    /// begin with the same.
    pub fn new(queues: Rc<[LaneQueue]>, places: usize, first_queue: usize) -> Self {
        assert!(!queues.is_empty() && places > 0 && places < OPAQUE_COUNT as usize);
        let next_queue = first_queue % queues.len();
        Self {
            queues,
            next_queue,
            places: vec![None; places],
            free: (0..places).rev().collect(),
            round: 0,
            output: Vec::new(),
            written: 0,
        }
    }

    pub fn has_place(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests that wait for an answer.
    pub fn under_way(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Puts a request into the output. The caller has asked [`Self::has_place`].
    pub fn send(&mut self, first_sequence: u64, intended_ns: u64, born_ms: u64) {
        let place = self.free.pop().expect("the caller checks that there is a place");
        let places = u32::try_from(self.places.len()).expect("checked when the lane was made");
        let index = u32::try_from(place).expect("smaller than the number of places");
        // A place's opaques are those that leave the place's index when divided by the number of places.
        self.round = (self.round + 1) % (OPAQUE_COUNT / places);
        let opaque = OPAQUE_BASE + self.round * places + index;
        let frame = self.next_queue;
        self.next_queue = (frame + 1) % self.queues.len();
        self.places[place] = Some(UnderWay { intended_ns, first_sequence, frame, opaque });
        self.queues[frame].frame.append_to(&mut self.output, opaque, born_ms, first_sequence, intended_ns);
    }

    /// What is still to be written.
    pub fn output(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The first `count` bytes of [`Self::output`] have been written.
    pub fn advance_output(&mut self, count: usize) {
        self.written += count;
        assert!(self.written <= self.output.len());
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Takes the whole frames off the front of `input` and hands each answer to `answered`.
    ///
    /// # Errors
    /// What the broker sends is not the protocol; the connection is of no more use.
    pub fn receive(
        &mut self,
        input: &mut BytesMut,
        mut answered: impl FnMut(Answered),
    ) -> Result<(), LaneError> {
        while let Some(frame) = split_frame(input)? {
            if let Some(answer) = self.pair(&frame)? {
                answered(answer);
            }
        }
        Ok(())
    }

    /// Reads one frame; `None` when it is a request of the broker's own.
    fn pair(&mut self, frame: &Frame) -> Result<Option<Answered>, LaneError> {
        let answer = Request::decode(frame)?;
        if !answer.is_response() {
            return Ok(None);
        }
        let stray = || LaneError::StrayAnswer(answer.opaque);
        let opaque = u32::try_from(answer.opaque).map_err(|_| stray())?;
        let place = opaque.checked_sub(OPAQUE_BASE).ok_or_else(stray)? as usize % self.places.len();
        let request = self.places[place].take_if(|request| request.opaque == opaque).ok_or_else(stray)?;
        self.free.push(place);
        let queue_id = self.queues[request.frame].queue_id;
        let result = match answer.code {
            response::SUCCESS => acknowledged_offset(&answer, queue_id).map_err(SendFailure::Malformed),
            code => {
                let remark = answer.remark.as_deref().unwrap_or_default().to_owned();
                Err(SendFailure::Refused { code, remark })
            }
        };
        Ok(Some(Answered { request, queue_id, result }))
    }
}

/// The queue offset of an acknowledgement that has everything a client needs.
fn acknowledged_offset(answer: &Request<'_>, queue_id: u32) -> Result<u64, &'static str> {
    if answer.ext.get("msgId").is_none_or(str::is_empty) {
        return Err("acknowledged without msgId");
    }
    let number = |name: &str| answer.ext.get(name).and_then(|text| text.parse::<u64>().ok());
    if number("queueId") != Some(queue_id.into()) {
        return Err("acknowledged for another queue");
    }
    number("queueOffset").ok_or("acknowledged without queueOffset")
}

/// Room for reading: grows the buffer when little is left.
pub fn make_room(input: &mut BytesMut) {
    const READ_BYTES: usize = 64 * 1024;
    if input.capacity() - input.len() < READ_BYTES / 4 {
        input.reserve(READ_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Payload, RunId};
    use crate::send_frame::FrameSpec;
    use ringmq::remoting::field_text::FieldText;
    use ringmq::remoting::response::write_response_head;

    fn lane(places: usize) -> Lane {
        let payload = Payload::new(RunId(1), 64);
        let queue = |queue_id| {
            let spec = FrameSpec { topic: "t", broker_name: "b", queue_id, batch: 1, delay_level: 0 };
            LaneQueue { queue_id, frame: SendFrame::new(&spec, &payload) }
        };
        Lane::new([queue(0), queue(1)].into(), places, 0)
    }

    /// The broker's side: reads the lane's output and answers each request with `code`.
    fn answers(lane: &mut Lane, code: i32) -> BytesMut {
        let mut requests = BytesMut::from(lane.output());
        let written = lane.output().len();
        lane.advance_output(written);
        let mut out = BytesMut::new();
        while let Some(frame) = split_frame(&mut requests).unwrap() {
            let request = Request::decode(&frame).unwrap();
            let queue_id = request.ext.get("e").unwrap();
            let ext: [(&str, &dyn FieldText); 3] =
                [("msgId", &"AB"), ("queueId", &queue_id), ("queueOffset", &7)];
            write_response_head(&mut out, request.reply_to(), code, Some("why"), &ext, 0);
        }
        out
    }

    #[test]
    fn pairs_answers_with_requests_over_all_queues() {
        let mut lane = lane(2);
        let mut seen = Vec::new();
        for round in 0..3_u64 {
            lane.send(round * 2, round, 1_700_000_000_000);
            lane.send(round * 2 + 1, round, 1_700_000_000_000);
            assert!(!lane.has_place());
            let mut input = answers(&mut lane, response::SUCCESS);
            lane.receive(&mut input, |answered| {
                assert_eq!(answered.result.as_ref().ok(), Some(&7));
                seen.push((answered.request.first_sequence, answered.queue_id));
            })
            .unwrap();
        }
        assert_eq!(seen, [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)]);
        assert_eq!(lane.under_way(), 0);
    }

    #[test]
    fn a_refusal_carries_code_and_remark() {
        let mut lane = lane(1);
        lane.send(0, 0, 1_700_000_000_000);
        let mut input = answers(&mut lane, 2);
        let mut failures = 0;
        lane.receive(&mut input, |answered| {
            assert!(
                matches!(answered.result, Err(SendFailure::Refused { code: 2, remark }) if remark == "why")
            );
            failures += 1;
        })
        .unwrap();
        assert_eq!(failures, 1);
    }

    #[test]
    fn an_answer_given_twice_is_an_error() {
        let mut lane = lane(1);
        lane.send(0, 0, 1_700_000_000_000);
        let input = answers(&mut lane, response::SUCCESS);
        let mut twice = BytesMut::from([&input[..], &input[..]].concat().as_slice());
        assert!(matches!(lane.receive(&mut twice, |_| {}), Err(LaneError::StrayAnswer(_))));
    }
}
