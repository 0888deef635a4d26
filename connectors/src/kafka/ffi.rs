//! The calls into librdkafka that the `rdkafka` crate does not wrap. The only module of the workspace with `unsafe`.
//!
//! Four things are needed and missing there: taking many records with one call ([`RecordQueue`]; the safe consumer
//! allocates an event per record and does not say at which offset a partition ended), and with it what such a record
//! holds ([`Message`], [`Headers`]); the ids of topics ([`describe_topics`]); their settings through a client that serves
//! the wish for a token ([`describe_settings`]; the crate's admin client does not); and the ends of partitions that the
//! client already knows from its last fetch ([`cached_watermarks`]).
//!
//! Rules kept here: every native object has one owner that frees it once; a queue lives no longer than its client
//! (it holds the client's `Arc`); a record lives no longer than the borrow of its queue; a record's error code, which
//! may come from a newer broker, is read as a plain integer, because a code unknown to the bindings would not be a
//! valid value of their `enum`.

#![allow(unsafe_code)]

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::{CStr, CString, c_char},
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use isobar_schemas::TopicPartition;
use rdkafka::{
    ClientContext,
    bindings::{self as rd, rd_kafka_resp_err_t},
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
};

use super::identity::TopicRights;

/// Most records taken by one call. Large enough to make the call's cost vanish, small enough that what a full batch
/// of records pins is little beside the client's own queue.
const BATCH_RECORDS_MAX: usize = 1024;

/// How often it is looked whether waiting for an answer is of any use, in milliseconds.
const LOOK_INTERVAL_MS: i32 = 100;

/// Receives the records of the attached partitions, many at a time, apart from the consumer's own queue, which
/// keeps carrying errors, statistics and commit results. Dropping it discards what it still holds.
pub(crate) struct RecordQueue<C: ConsumerContext> {
    queue: NonNull<rd::rd_kafka_queue_t>,
    /// Records taken from librdkafka; those before `next` belong to (dropped) [`Message`]s.
    batch: Vec<*mut rd::rd_kafka_message_t>,
    next: usize,
    /// Keeps the client alive as long as its queue.
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's handles may be used from any thread, and `&mut self` is needed to touch the batch.
unsafe impl<C: ConsumerContext> Send for RecordQueue<C> {}

impl<C: ConsumerContext> RecordQueue<C> {
    /// A queue without partitions.
    pub(crate) fn new(consumer: Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the client is alive; the function never returns null (it aborts when out of memory).
        let queue = unsafe { rd::rd_kafka_queue_new(consumer.client().native_ptr()) };
        let queue = NonNull::new(queue).expect("librdkafka aborts rather than return a null queue");
        Self { queue, batch: Vec::with_capacity(BATCH_RECORDS_MAX), next: 0, consumer }
    }

    /// Sends everything fetched from `topic_partition` here. Call it before the partition is assigned. `false` when
    /// the name cannot be a topic's.
    #[must_use]
    pub(crate) fn attach(&self, topic_partition: &TopicPartition) -> bool {
        let Ok(topic) = CString::new(&*topic_partition.topic) else { return false };
        let client = self.consumer.client().native_ptr();
        // SAFETY: client and name are alive; the partition's handle is checked, used, and released once. Forwarding
        // takes a reference of its own on both queues.
        unsafe {
            let partition_queue =
                rd::rd_kafka_queue_get_partition(client, topic.as_ptr(), topic_partition.partition);
            if partition_queue.is_null() {
                return false;
            }
            rd::rd_kafka_queue_forward(partition_queue, self.queue.as_ptr());
            rd::rd_kafka_queue_destroy(partition_queue);
        }
        true
    }

    /// Whether every record of the last batch has been given out.
    pub(crate) fn is_used_up(&self) -> bool {
        self.next == self.batch.len()
    }

    /// Waits until a whole batch is there, at most `timeout`, and takes what has arrived.
    ///
    /// # Panics
    /// If the last batch is not [used up](Self::is_used_up): its records would be lost.
    pub(crate) fn fill(&mut self, timeout: Duration) {
        assert!(self.is_used_up(), "a batch is used up before the next one is taken");
        self.batch.clear();
        self.next = 0;
        let timeout_ms = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: the vector has room for the number of pointers given, and librdkafka tells how many it wrote.
        // Each becomes ours to destroy.
        unsafe {
            let count = rd::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                timeout_ms,
                self.batch.as_mut_ptr(),
                self.batch.capacity(),
            );
            self.batch.set_len(usize::try_from(count).unwrap_or(0));
        }
    }

    /// The next record or event of the batch.
    pub(crate) fn next(&mut self) -> Option<Message<'_>> {
        let message = NonNull::new(*self.batch.get(self.next)?).expect("librdkafka writes no null messages");
        self.next += 1;
        Some(Message { message, queue: PhantomData })
    }
}

impl<C: ConsumerContext> Drop for RecordQueue<C> {
    fn drop(&mut self) {
        while self.next().is_some() {}
        // SAFETY: created in `new`, destroyed only here, while the client (a field) is still alive.
        unsafe { rd::rd_kafka_queue_destroy(self.queue.as_ptr()) }
    }
}

/// A record, or an event in its place: then [`error_code`](Self::error_code) is not 0.
pub(crate) struct Message<'queue> {
    message: NonNull<rd::rd_kafka_message_t>,
    queue: PhantomData<&'queue ()>,
}

impl Message<'_> {
    fn native(&self) -> *const rd::rd_kafka_message_t {
        self.message.as_ptr()
    }

    /// 0 for a record; otherwise librdkafka's code (negative) or the broker's (positive).
    pub(crate) fn error_code(&self) -> i32 {
        // SAFETY: the message is alive. The field is read as the integer it is in C.
        unsafe { ptr::addr_of!((*self.native()).err).cast::<i32>().read() }
    }

    /// What the error says, for people.
    pub(crate) fn error_text(&self) -> String {
        // SAFETY: the message is alive; the string, if any, belongs to it and is copied.
        unsafe { text(rd::rd_kafka_message_errstr(self.native())) }
    }

    /// Stands for the topic as long as the assignment lasts: equal handles, equal topics. 0 for an event of no
    /// topic.
    pub(crate) fn topic_handle(&self) -> usize {
        // SAFETY: the message is alive.
        unsafe { (*self.native()).rkt.addr() }
    }

    /// The topic's name, empty for an event of no topic.
    pub(crate) fn topic(&self) -> &str {
        // SAFETY: the message is alive and holds a reference on its topic, whose name does not change.
        unsafe {
            let topic = (*self.native()).rkt;
            if topic.is_null() {
                return "";
            }
            CStr::from_ptr(rd::rd_kafka_topic_name(topic)).to_str().unwrap_or_default()
        }
    }

    pub(crate) fn partition(&self) -> i32 {
        // SAFETY: the message is alive.
        unsafe { (*self.native()).partition }
    }

    /// The record's offset; for the end of a partition, the next offset to read.
    pub(crate) fn offset(&self) -> i64 {
        // SAFETY: the message is alive.
        unsafe { (*self.native()).offset }
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive; `kind` is written with one of its three values.
        let timestamp = unsafe { rd::rd_kafka_message_timestamp(self.native(), &mut kind) };
        (kind != rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE && timestamp >= 0)
            .then_some(timestamp)
    }

    pub(crate) fn key(&self) -> Option<&[u8]> {
        // SAFETY: the message is alive; pointer and length describe its own memory.
        unsafe { bytes((*self.native()).key.cast(), (*self.native()).key_len) }
    }

    /// `None` for a tombstone.
    pub(crate) fn payload(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        unsafe { bytes((*self.native()).payload.cast(), (*self.native()).len) }
    }
}

impl Message<'_> {
    /// The headers, in their order; `None` if what is there cannot be read. Nothing of them is looked at before.
    pub(crate) fn headers(&self) -> Option<Headers<'_>> {
        let mut native = ptr::null_mut();
        // SAFETY: the message is alive; the pointer is written with its own headers, or not at all. Their bytes are
        // parsed at the first call and belong to the message from then on.
        let code = unsafe { rd::rd_kafka_message_headers(self.native(), &mut native) };
        match code {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            | rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT => {
                Some(Headers { native, next: 0, message: PhantomData })
            }
            _ => None,
        }
    }
}

/// The headers of a record: names and values. A name that is not UTF-8 has U+FFFD where it is broken.
pub(crate) struct Headers<'message> {
    /// Null if there are none.
    native: *const rd::rd_kafka_headers_t,
    next: usize,
    message: PhantomData<&'message ()>,
}

impl<'message> Iterator for Headers<'message> {
    type Item = (Cow<'message, str>, Option<&'message [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.native.is_null() {
            return None;
        }
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the headers belong to the message, which outlives `'message` and does not change them. All three are
        // written if there is a header of that number: the name a C string, the value null or `len` bytes.
        unsafe {
            let code = rd::rd_kafka_header_get_all(self.native, self.next, &mut name, &mut value, &mut len);
            if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return None;
            }
            self.next += 1;
            Some((CStr::from_ptr(name).to_string_lossy(), bytes(value.cast(), len)))
        }
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        // SAFETY: `RecordQueue::next` gives out each message once; nothing borrowed from it outlives it.
        unsafe { rd::rd_kafka_message_destroy(self.message.as_ptr()) }
    }
}

/// # Safety
/// `start` is null, or the start of `len` readable bytes that live and do not change for `'a`.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: promised by the caller.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}

/// # Safety
/// `string` is null or a C string alive during the call.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: promised by the caller.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// First and next offset of a partition as told by the broker's last fetch response, without asking it.
/// `None` where nothing is known yet.
pub(crate) fn cached_watermarks<C: ClientContext>(
    client: &Client<C>,
    topic_partition: &TopicPartition,
) -> (Option<i64>, Option<i64>) {
    let Ok(topic) = CString::new(&*topic_partition.topic) else { return (None, None) };
    let (mut low, mut high) = (-1, -1);
    // SAFETY: client, name and both numbers are alive during the call. The error ("unknown partition") leaves the
    // numbers as they are.
    unsafe {
        rd::rd_kafka_get_watermark_offsets(
            client.native_ptr(),
            topic.as_ptr(),
            topic_partition.partition,
            &mut low,
            &mut high,
        );
    }
    ((low >= 0).then_some(low), (high >= 0).then_some(high))
}

/// What the cluster says about one topic.
pub(crate) struct TopicDescription {
    pub(crate) name: String,
    /// As Kafka's tools print it; `None` from a broker that knows no topic ids.
    pub(crate) id: Option<String>,
    pub(crate) partitions: usize,
    /// What these credentials may do there; `None` if that was not asked, or is not told.
    pub(crate) rights: Option<TopicRights>,
    /// Code and text, when the topic could not be described.
    pub(crate) error: Option<(i32, String)>,
}

/// Asks the cluster about `topics`, and what is allowed there if `with_rights`. Blocks up to `timeout`, and while
/// `is_hopeless` is false, which is asked now and then. The error is a code and its text.
pub(crate) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    with_rights: bool,
    timeout: Duration,
    is_hopeless: impl FnMut() -> bool,
) -> Result<Vec<TopicDescription>, (i32, String)> {
    let names = c_strings(topics)?;
    let mut name_pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let native = client.native_ptr();
    // SAFETY: the client outlives the call. Collection, options, queue and event are created here, each is released
    // once, and the names outlive the collection. Everything reached from the event is copied before its release.
    unsafe {
        let collection = rd::rd_kafka_TopicCollection_of_topic_names(name_pointers.as_mut_ptr(), names.len());
        let options =
            admin_options(native, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout);
        if with_rights {
            let refused = rd::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            if !refused.is_null() {
                // Then nothing is told of them.
                rd::rd_kafka_error_destroy(refused);
            }
        }
        let queue = rd::rd_kafka_queue_new(native);
        rd::rd_kafka_DescribeTopics(native, collection, options, queue);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_TopicCollection_destroy(collection);
        let event = answer(queue, timeout, is_hopeless);
        let answer = described(event);
        release(event, queue);
        answer
    }
}

/// `texts` for C. None may be empty: librdkafka makes nothing of an empty name.
fn c_strings(texts: &[String]) -> Result<Vec<CString>, (i32, String)> {
    let invalid = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG as i32;
    let string = |text: &String| match CString::new(text.as_str()) {
        Ok(string) if !text.is_empty() => Ok(string),
        _ => Err((invalid, format!("{text:?} is no name of a topic"))),
    };
    texts.iter().map(string).collect()
}

/// # Safety
/// `client` is alive. The options are the caller's to destroy.
unsafe fn admin_options(
    client: *mut rd::rd_kafka_t,
    operation: rd::rd_kafka_admin_op_t,
    timeout: Duration,
) -> *mut rd::rd_kafka_AdminOptions_t {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client is alive, promised by the caller; without room for an error text none is written.
    unsafe {
        let options = rd::rd_kafka_AdminOptions_new(client, operation);
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        options
    }
}

/// Waits for what comes to `queue`; null if nothing does. The request itself ends with a time-out event; a second more only
/// guards against waiting for ever. An answer that comes after we gave up goes with its queue.
///
/// # Safety
/// `queue` is alive. The event is the caller's to destroy.
unsafe fn answer(
    queue: *mut rd::rd_kafka_queue_t,
    timeout: Duration,
    mut is_hopeless: impl FnMut() -> bool,
) -> *mut rd::rd_kafka_event_t {
    let deadline = Instant::now() + timeout + Duration::from_secs(1);
    // SAFETY: the queue is alive, promised by the caller.
    let poll = || unsafe { rd::rd_kafka_queue_poll(queue, LOOK_INTERVAL_MS) };
    let mut event = poll();
    while event.is_null() && Instant::now() < deadline && !is_hopeless() {
        event = poll();
    }
    event
}

/// # Safety
/// `event` is null or alive, `queue` is alive, and neither is used afterwards.
unsafe fn release(event: *mut rd::rd_kafka_event_t, queue: *mut rd::rd_kafka_queue_t) {
    // SAFETY: promised by the caller.
    unsafe {
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
    }
}

/// # Safety
/// `event` is null or the live result of `rd_kafka_DescribeTopics`.
unsafe fn described(event: *mut rd::rd_kafka_event_t) -> Result<Vec<TopicDescription>, (i32, String)> {
    // SAFETY: the event is null or alive, promised by the caller; all that is read belongs to it. A topic's id and error
    // are parts of its description and never null.
    unsafe {
        refuse_failure(event)?;
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(another_answer());
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() {
            return Ok(Vec::new());
        }
        Ok(slice::from_raw_parts(topics, count).iter().map(|topic| description(*topic)).collect())
    }
}

/// # Safety
/// `topic` is a description inside a live event.
unsafe fn description(topic: *const rd::rd_kafka_TopicDescription_t) -> TopicDescription {
    // SAFETY: alive, promised by the caller; everything is copied.
    unsafe {
        let error = rd::rd_kafka_TopicDescription_error(topic);
        let code = if error.is_null() { 0 } else { rd::rd_kafka_error_code(error) as i32 };
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        TopicDescription {
            name: text(rd::rd_kafka_TopicDescription_name(topic)),
            id: topic_id(rd::rd_kafka_TopicDescription_topic_id(topic)),
            partitions,
            rights: rights(topic),
            error: (code != 0).then(|| (code, text(rd::rd_kafka_error_string(error)))),
        }
    }
}

/// # Safety
/// `topic` is a description inside a live event.
unsafe fn rights(topic: *const rd::rd_kafka_TopicDescription_t) -> Option<TopicRights> {
    let mut count = 0;
    // SAFETY: alive, promised by the caller. The operations belong to the description; each is read as the integer it is
    // in C.
    unsafe {
        let operations = rd::rd_kafka_TopicDescription_authorized_operations(topic, &mut count);
        if operations.is_null() || count == 0 {
            return None;
        }
        let operations = slice::from_raw_parts(operations.cast::<i32>(), count);
        let may = |operation: rd::rd_kafka_AclOperation_t| operations.contains(&(operation as i32));
        Some(TopicRights {
            read: may(rd::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ),
            write: may(rd::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE),
        })
    }
}

/// # Safety
/// `id` is null or a live id.
unsafe fn topic_id(id: *const rd::rd_kafka_Uuid_t) -> Option<String> {
    // SAFETY: alive, promised by the caller. The printed form is a buffer inside the id and is copied.
    unsafe {
        let known = !id.is_null()
            && (rd::rd_kafka_Uuid_most_significant_bits(id) != 0
                || rd::rd_kafka_Uuid_least_significant_bits(id) != 0);
        // librdkafka prints the common alphabet of base64, Kafka's own tools the one that is safe in paths.
        known.then(|| text(rd::rd_kafka_Uuid_base64str(id)).replace('+', "-").replace('/', "_"))
    }
}

/// The settings of one topic.
pub(crate) struct TopicSettings {
    pub(crate) name: String,
    /// By name. Settings that the broker calls sensitive are left out.
    pub(crate) settings: BTreeMap<String, String>,
    /// Code and text, when the settings could not be described.
    pub(crate) error: Option<(i32, String)>,
}

/// Asks the cluster for the settings of `topics`. Blocks, and fails, as [`describe_topics`].
pub(crate) fn describe_settings<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
    is_hopeless: impl FnMut() -> bool,
) -> Result<Vec<TopicSettings>, (i32, String)> {
    let names = c_strings(topics)?;
    let native = client.native_ptr();
    // SAFETY: the client outlives the call. Resources, options, queue and event are created here and each is released
    // once; a resource copies its name. Everything reached from the event is copied before its release.
    unsafe {
        let kind = rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut resources: Vec<*mut rd::rd_kafka_ConfigResource_t> =
            names.iter().map(|name| rd::rd_kafka_ConfigResource_new(kind, name.as_ptr())).collect();
        let options =
            admin_options(native, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, timeout);
        let queue = rd::rd_kafka_queue_new(native);
        rd::rd_kafka_DescribeConfigs(native, resources.as_mut_ptr(), resources.len(), options, queue);
        rd::rd_kafka_AdminOptions_destroy(options);
        rd::rd_kafka_ConfigResource_destroy_array(resources.as_mut_ptr(), resources.len());
        let event = answer(queue, timeout, is_hopeless);
        let answer = settings(event);
        release(event, queue);
        answer
    }
}

/// # Safety
/// `event` is null or the live result of `rd_kafka_DescribeConfigs`.
unsafe fn settings(event: *mut rd::rd_kafka_event_t) -> Result<Vec<TopicSettings>, (i32, String)> {
    // SAFETY: the event is null or alive, promised by the caller; all that is read belongs to it, and no resource of an
    // answer is null.
    unsafe {
        refuse_failure(event)?;
        let result = rd::rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return Err(another_answer());
        }
        let mut count = 0;
        let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        if resources.is_null() {
            return Ok(Vec::new());
        }
        Ok(slice::from_raw_parts(resources, count).iter().map(|resource| settings_of(*resource)).collect())
    }
}

/// # Safety
/// `resource` is a resource inside a live event.
unsafe fn settings_of(resource: *const rd::rd_kafka_ConfigResource_t) -> TopicSettings {
    // SAFETY: alive, promised by the caller; everything is copied.
    unsafe {
        let code = rd::rd_kafka_ConfigResource_error(resource) as i32;
        let mut count = 0;
        let entries = rd::rd_kafka_ConfigResource_configs(resource, &mut count);
        let entries = if entries.is_null() { &[][..] } else { slice::from_raw_parts(entries, count) };
        let open = entries.iter().filter(|entry| {
            rd::rd_kafka_ConfigEntry_is_sensitive(**entry) == 0
                && !rd::rd_kafka_ConfigEntry_value(**entry).is_null()
        });
        TopicSettings {
            name: text(rd::rd_kafka_ConfigResource_name(resource)),
            settings: open
                .map(|entry| {
                    (
                        text(rd::rd_kafka_ConfigEntry_name(*entry)),
                        text(rd::rd_kafka_ConfigEntry_value(*entry)),
                    )
                })
                .collect(),
            error: (code != 0).then(|| (code, text(rd::rd_kafka_ConfigResource_error_string(resource)))),
        }
    }
}

/// The error that `event` stands for: its own, or that there is none.
///
/// # Safety
/// `event` is null or alive.
unsafe fn refuse_failure(event: *mut rd::rd_kafka_event_t) -> Result<(), (i32, String)> {
    if event.is_null() {
        let code = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT as i32;
        return Err((code, "no answer".into()));
    }
    // SAFETY: the event is alive, promised by the caller.
    unsafe {
        match rd::rd_kafka_event_error(event) as i32 {
            0 => Ok(()),
            code => Err((code, text(rd::rd_kafka_event_error_string(event)))),
        }
    }
}

fn another_answer() -> (i32, String) {
    (rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL as i32, "an answer of another kind".into())
}
