//! A small blocking client of the remoting protocol, for the command line and for tests in Rust: routes, sends, pulls, topics
//! and offsets, one call at a time over `std::net::TcpStream`.
//!
//! It runs on whatever thread calls it and owns its connections: one for each address, opened when first needed. It promises
//! that every answer belongs to the request it was returned for, and that an error names the address and what to do. It does not
//! retry sends (a retried send may store a message twice), keep consumer groups alive or share queues among members: that is
//! the work of a full client.

mod connection;
mod error;
mod message;
mod route;

use crate::remoting::field_text::FieldText;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::remoting::code::{request, response};

pub use connection::{Answer, Connection};
pub use error::ClientError;
pub use message::{MessageView, Messages, OutMessage, UniqueKeys};
pub use route::{BrokerAddresses, ClusterInfo, Queue, QueueNumbers, TopicRoute};

/// How long one call may take unless the caller says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The topic whose settings an automatically created topic inherits.
const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Queues that a producer asks for when its first message creates a topic.
const AUTO_CREATE_QUEUES: u32 = 4;
/// Pull flags: the broker may hold the request; the request carries its own subscription.
const PULL_SUSPEND: i32 = 0x2;
const PULL_SUBSCRIPTION: i32 = 0x4;
/// A topic that can be read and written.
const PERM_READ_WRITE: i32 = 6;

/// A client of the brokers that a name server lists.
#[derive(Debug)]
pub struct Client {
    namesrv: Vec<String>,
    connections: HashMap<String, Numbered>,
    /// Connections that were opened so far: the number of the last.
    opened: u64,
    timeout: Duration,
}

/// A connection and its number, which no other connection of the client has.
#[derive(Debug)]
struct Numbered {
    number: u64,
    connection: Connection,
}

/// Which request on which connection.
#[derive(Clone, Copy, Debug)]
struct Begun {
    connection: u64,
    opaque: i32,
}

/// A message that was sent and whose answer was not taken.
#[derive(Debug)]
pub struct SendUnderWay {
    queue: Queue,
    unique_key: String,
    begun: Begun,
}

/// Where the broker stored a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendReceipt {
    /// The message's own key, which clients show as its id.
    pub unique_key: String,
    /// The broker's id of the message: address and physical offset.
    pub offset_message_id: String,
    pub broker_name: String,
    pub queue_id: u32,
    pub queue_offset: u64,
    /// The answer's code: 0, or one of the codes that mean "stored, but" (10, 11, 12).
    pub code: i32,
}

/// What to pull.
#[derive(Clone, Debug)]
pub struct Pull<'a> {
    pub group: &'a str,
    pub offset: u64,
    pub messages_max: u32,
    /// `*`, or tags joined by `||`.
    pub subscription: &'a str,
    /// How long the broker may hold the request when there is nothing to read; `None` asks for an answer at once.
    pub hold: Option<Duration>,
}

/// The answer to a pull.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// 0 messages found, 19 nothing there yet, 20 nothing that matched, 21 the offset is outside of what is stored.
    pub code: i32,
    pub next_offset: u64,
    pub min_offset: u64,
    pub max_offset: u64,
    body: Bytes,
}

impl Pulled {
    /// The messages, in queue order.
    pub fn messages(&self) -> Messages<'_> {
        Messages::new(&self.body)
    }

    /// The records as they came, back to back.
    pub fn raw(&self) -> &Bytes {
        &self.body
    }
}

/// What a topic is to be created as.
#[derive(Clone, Copy, Debug)]
pub struct TopicSpec<'a> {
    pub name: &'a str,
    /// Queues on each broker.
    pub queues: u32,
}

impl Client {
    /// A client that asks these name servers (`host:port`, several joined by `;`), in this order. Connects nowhere yet.
    pub fn new(namesrv: &str) -> Self {
        let namesrv =
            namesrv.split(';').map(str::trim).filter(|addr| !addr.is_empty()).map(str::to_owned).collect();
        Self { namesrv, connections: HashMap::new(), opened: 0, timeout: CALL_TIMEOUT }
    }

    /// The same with another bound on each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends one request to `addr` and returns its answer, whatever its code.
    ///
    /// # Errors
    /// When the address cannot be reached, the connection breaks or the answer does not come in time. The connection is then
    /// given up: the request may or may not have been carried out.
    pub fn call(
        &mut self,
        addr: &str,
        code: i32,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
    ) -> Result<Answer, ClientError> {
        self.call_within(addr, code, ext, body, self.timeout)
    }

    fn call_within(
        &mut self,
        addr: &str,
        code: i32,
        ext: &[(&str, &dyn FieldText)],
        body: &[u8],
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let answer = self.connection(addr)?.connection.call(code, ext, body, timeout);
        if answer.is_err() {
            self.connections.remove(addr);
        }
        answer
    }

    fn connection(&mut self, addr: &str) -> Result<&mut Numbered, ClientError> {
        if !self.connections.contains_key(addr) {
            let connection = Connection::open(addr, self.timeout)?;
            self.opened += 1;
            self.connections.insert(addr.to_owned(), Numbered { number: self.opened, connection });
        }
        Ok(self.connections.get_mut(addr).expect("inserted above when it was missing"))
    }

    /// Asks the name servers in turn; the first that answers at all decides.
    fn ask_namesrv(&mut self, code: i32, ext: &[(&str, &dyn FieldText)]) -> Result<Answer, ClientError> {
        let mut last = ClientError::NoNamesrv;
        for addr in self.namesrv.clone() {
            match self.call(&addr, code, ext, &[]) {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The topic's route; `None` when the name server knows no such topic.
    ///
    /// # Errors
    /// No name server answers, or with something that is not a route.
    pub fn route(&mut self, topic: &str) -> Result<Option<TopicRoute>, ClientError> {
        let answer = self.ask_namesrv(
            request::GET_ROUTEINFO_BY_TOPIC,
            &[("topic", &topic), ("acceptStandardJsonOnly", &true)],
        )?;
        if answer.code() == response::TOPIC_NOT_EXIST {
            return Ok(None);
        }
        let answer = answer.success("asking for the route of a topic")?;
        TopicRoute::parse(&answer, topic).map(Some)
    }

    /// The route that a producer of `topic` uses: the topic's own or, when there is none yet, the queues on which sending will
    /// create it.
    ///
    /// # Errors
    /// As [`Self::route`]; and when the topic is missing and no broker creates topics by itself.
    pub fn publish_route(&mut self, topic: &str) -> Result<TopicRoute, ClientError> {
        if let Some(route) = self.route(topic)? {
            return Ok(route);
        }
        match self.route(AUTO_CREATE_TOPIC)? {
            Some(template) => Ok(template.into_template_for(topic, AUTO_CREATE_QUEUES)),
            None => Err(ClientError::NoRoute { topic: topic.to_owned() }),
        }
    }

    /// All brokers that the name server knows.
    ///
    /// # Errors
    /// No name server answers, or with something that is not a cluster.
    pub fn cluster(&mut self) -> Result<ClusterInfo, ClientError> {
        let answer = self.ask_namesrv(request::GET_BROKER_CLUSTER_INFO, &[])?;
        ClusterInfo::parse(&answer.success("asking for the brokers of the cluster")?)
    }

    /// The names of all topics, sorted.
    ///
    /// # Errors
    /// No name server answers, or it refuses.
    pub fn topics(&mut self) -> Result<Vec<String>, ClientError> {
        let answer = self
            .ask_namesrv(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[])?
            .success("asking for the list of topics")?;
        route::parse_topic_list(&answer)
    }

    /// Creates the topic, or changes its number of queues, on every broker of the cluster. Returns the brokers' names, sorted.
    ///
    /// # Errors
    /// There is no broker, or one refuses: those before it have the topic.
    pub fn create_topic(&mut self, spec: TopicSpec<'_>) -> Result<Vec<String>, ClientError> {
        let cluster = self.cluster()?;
        let masters = cluster.masters();
        if masters.is_empty() {
            return Err(ClientError::NoBroker);
        }
        for (_, addr) in &masters {
            self.call(
                addr,
                request::UPDATE_AND_CREATE_TOPIC,
                &[
                    ("topic", &spec.name),
                    ("defaultTopic", &AUTO_CREATE_TOPIC),
                    ("readQueueNums", &spec.queues),
                    ("writeQueueNums", &spec.queues),
                    ("perm", &PERM_READ_WRITE),
                    ("topicFilterType", &"SINGLE_TAG"),
                    ("topicSysFlag", &0),
                    ("order", &false),
                    ("force", &false),
                ],
                &[],
            )?
            .success("creating the topic")?;
        }
        Ok(masters.into_iter().map(|(name, _)| name).collect())
    }

    /// Deletes the topic on every broker that has it, then on every name server. Returns whether there was such a topic.
    ///
    /// # Errors
    /// A broker or a name server cannot be reached or refuses: run it again.
    pub fn delete_topic(&mut self, topic: &str) -> Result<bool, ClientError> {
        let Some(route) = self.route(topic)? else { return Ok(false) };
        for (_, addr) in route.masters() {
            self.call(&addr, request::DELETE_TOPIC_IN_BROKER, &[("topic", &topic)], &[])?
                .success("deleting the topic")?;
        }
        for addr in self.namesrv.clone() {
            self.call(&addr, request::DELETE_TOPIC_IN_NAMESRV, &[("topic", &topic)], &[])?
                .success("deleting the topic's route")?;
        }
        Ok(true)
    }

    /// Sends one message to one queue and waits until it is acknowledged. Never retries.
    ///
    /// # Errors
    /// The broker cannot be reached, refuses the message, or its answer is not to be understood.
    pub fn send(
        &mut self,
        queue: &Queue,
        group: &str,
        message: &OutMessage<'_>,
        born_timestamp_ms: i64,
    ) -> Result<SendReceipt, ClientError> {
        let begun = self.put(queue, group, message, born_timestamp_ms)?;
        let answer = self.take(&queue.addr, begun)?;
        receipt(&answer, message.unique_key.to_owned(), queue.broker_name.clone())
    }

    /// Sends a message and does not wait for the answer. Messages to one queue that are under way at the same time are stored in their
    /// order.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn begin_send(
        &mut self,
        queue: &Queue,
        group: &str,
        message: &OutMessage<'_>,
        born_timestamp_ms: i64,
    ) -> Result<SendUnderWay, ClientError> {
        let begun = self.put(queue, group, message, born_timestamp_ms)?;
        Ok(SendUnderWay { queue: queue.clone(), unique_key: message.unique_key.to_owned(), begun })
    }

    /// Waits for the answer to a message that was sent.
    ///
    /// # Errors
    /// As [`Self::send`]; also when the connection was given up for another message.
    pub fn finish_send(&mut self, under_way: SendUnderWay) -> Result<SendReceipt, ClientError> {
        let SendUnderWay { queue, unique_key, begun } = under_way;
        let answer = self.take(&queue.addr, begun)?;
        receipt(&answer, unique_key, queue.broker_name)
    }

    /// Writes a message to the connection.
    fn put(
        &mut self,
        queue: &Queue,
        group: &str,
        message: &OutMessage<'_>,
        born_timestamp_ms: i64,
    ) -> Result<Begun, ClientError> {
        let properties = message.encoded_properties();
        let ext = send_fields(queue, &group, &born_timestamp_ms, &properties, &false);
        let timeout = self.timeout;
        let Numbered { number, connection } = self.connection(&queue.addr)?;
        let number = *number;
        let opaque = connection.begin(request::SEND_MESSAGE_V2, &ext, message.body, timeout);
        if opaque.is_err() {
            self.connections.remove(&queue.addr);
        }
        Ok(Begun { connection: number, opaque: opaque? })
    }

    /// Waits for the answer to a message that was written, on the connection that it was written to and no other.
    fn take(&mut self, addr: &str, begun: Begun) -> Result<Answer, ClientError> {
        let code = request::SEND_MESSAGE_V2;
        let connection = self.connections.get_mut(addr).filter(|open| open.number == begun.connection);
        let Some(Numbered { connection, .. }) = connection else {
            let source = io::Error::new(io::ErrorKind::NotConnected, "the connection was given up");
            return Err(ClientError::Broken { addr: addr.to_owned(), code, source });
        };
        let answer = connection.finish(code, begun.opaque, self.timeout);
        if answer.is_err() {
            self.connections.remove(addr);
        }
        answer?.stored("sending a message")
    }

    /// Sends several messages to one queue as one batch, which is stored whole or not at all. Returns the queue offset of the
    /// first.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_batch(
        &mut self,
        queue: &Queue,
        group: &str,
        messages: &[OutMessage<'_>],
        born_timestamp_ms: i64,
    ) -> Result<u64, ClientError> {
        let mut body = BytesMut::new();
        for message in messages {
            message.encode_in_batch(&mut body);
        }
        let ext = send_fields(queue, &group, &born_timestamp_ms, &"", &true);
        self.call(&queue.addr, request::SEND_BATCH_MESSAGE, &ext, &body)?
            .stored("sending a batch")?
            .number("queueOffset")
    }

    /// Pulls from one queue.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses; codes 19, 20 and 21 are answers, not errors.
    pub fn pull(&mut self, queue: &Queue, pull: &Pull<'_>) -> Result<Pulled, ClientError> {
        let hold = pull.hold.unwrap_or_default();
        let flags = PULL_SUBSCRIPTION | if pull.hold.is_some() { PULL_SUSPEND } else { 0 };
        let answer = self.call_within(
            &queue.addr,
            request::PULL_MESSAGE,
            &[
                ("consumerGroup", &pull.group),
                ("topic", &queue.topic),
                ("queueId", &queue.queue_id),
                ("queueOffset", &pull.offset),
                ("maxMsgNums", &pull.messages_max),
                ("sysFlag", &flags),
                ("commitOffset", &0),
                ("suspendTimeoutMillis", &hold.as_millis()),
                ("subscription", &pull.subscription),
                ("subVersion", &0),
                ("expressionType", &"TAG"),
            ],
            &[],
            self.timeout + hold,
        )?;
        if !matches!(
            answer.code(),
            response::SUCCESS
                | response::PULL_NOT_FOUND
                | response::PULL_RETRY_IMMEDIATELY
                | response::PULL_OFFSET_MOVED
        ) {
            return Err(answer.refused("pulling messages"));
        }
        Ok(Pulled {
            code: answer.code(),
            next_offset: answer.number("nextBeginOffset")?,
            min_offset: answer.number("minOffset")?,
            max_offset: answer.number("maxOffset")?,
            body: answer.into_body(),
        })
    }

    /// The offset that the queue's next message will get.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses.
    pub fn max_offset(&mut self, queue: &Queue) -> Result<u64, ClientError> {
        self.call(
            &queue.addr,
            request::GET_MAX_OFFSET,
            &[("topic", &queue.topic), ("queueId", &queue.queue_id), ("committed", &true)],
            &[],
        )?
        .success("asking for the end of a queue")?
        .number("offset")
    }

    /// The offset of the oldest message that the queue still has.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses.
    pub fn min_offset(&mut self, queue: &Queue) -> Result<u64, ClientError> {
        self.call(
            &queue.addr,
            request::GET_MIN_OFFSET,
            &[("topic", &queue.topic), ("queueId", &queue.queue_id)],
            &[],
        )?
        .success("asking for the start of a queue")?
        .number("offset")
    }

    /// The group's committed offset (the next to consume) in the queue; `None` when it never committed one.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses.
    pub fn committed_offset(&mut self, queue: &Queue, group: &str) -> Result<Option<u64>, ClientError> {
        let answer = self.call(
            &queue.addr,
            request::QUERY_CONSUMER_OFFSET,
            &[
                ("consumerGroup", &group),
                ("topic", &queue.topic),
                ("queueId", &queue.queue_id),
                ("setZeroIfNotFound", &false),
            ],
            &[],
        )?;
        if answer.code() == response::QUERY_NOT_FOUND {
            return Ok(None);
        }
        answer.success("asking for a committed offset")?.number("offset").map(Some)
    }

    /// Commits the next offset that the group has to consume in the queue.
    ///
    /// # Errors
    /// The broker cannot be reached or refuses.
    pub fn commit_offset(&mut self, queue: &Queue, group: &str, offset: u64) -> Result<(), ClientError> {
        self.call(
            &queue.addr,
            request::UPDATE_CONSUMER_OFFSET,
            &[
                ("consumerGroup", &group),
                ("topic", &queue.topic),
                ("queueId", &queue.queue_id),
                ("commitOffset", &offset),
            ],
            &[],
        )?
        .success("committing an offset")
        .map(|_| ())
    }
}

/// The header of a send, by its short names.
fn send_fields<'a>(
    queue: &'a Queue,
    group: &'a &str,
    born_timestamp_ms: &'a i64,
    properties: &'a dyn FieldText,
    is_batch: &'a bool,
) -> [(&'static str, &'a dyn FieldText); 13] {
    [
        ("a", group),
        ("b", &queue.topic),
        ("c", &AUTO_CREATE_TOPIC),
        ("d", &AUTO_CREATE_QUEUES),
        ("e", &queue.queue_id),
        ("f", &0),
        ("g", born_timestamp_ms),
        ("h", &0),
        ("i", properties),
        ("j", &0),
        ("k", &false),
        ("m", is_batch),
        ("n", &queue.broker_name),
    ]
}

fn receipt(answer: &Answer, unique_key: String, broker_name: String) -> Result<SendReceipt, ClientError> {
    Ok(SendReceipt {
        unique_key,
        offset_message_id: answer.field("msgId").unwrap_or_default(),
        broker_name,
        queue_id: answer.number("queueId")?,
        queue_offset: answer.number("queueOffset")?,
        code: answer.code(),
    })
}

/// Appends one `name 0x01 value 0x02` to an encoded property string.
fn put_property(out: &mut impl BufMut, name: &str, value: &str) {
    out.put_slice(name.as_bytes());
    out.put_u8(1);
    out.put_slice(value.as_bytes());
    out.put_u8(2);
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The story: requests are numbered on each connection from one, so a message that was sent over a connection which broke took the
    /// answer to another one on the connection that came after it.
    #[test]
    fn a_message_does_not_take_the_answer_to_another_one_after_a_new_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let queue = Queue { topic: "t".to_owned(), broker_name: "b".to_owned(), addr, queue_id: 0 };
        let mut client = Client::new("").with_timeout(Duration::from_secs(2));
        let begin = |client: &mut Client, key| {
            client.begin_send(&queue, "p", &OutMessage::new(key, b"body"), 0).unwrap()
        };
        let (first, second) = (begin(&mut client, "first"), begin(&mut client, "second"));
        drop(listener.accept().unwrap());
        client.finish_send(first).expect_err("the connection ended");
        let _later = [begin(&mut client, "third"), begin(&mut client, "fourth")];
        let error = client.finish_send(second).unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error}");
        assert!(error.to_string().contains("was given up"), "{error}");
    }
}
