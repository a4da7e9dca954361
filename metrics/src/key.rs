//! Keys of entries in the counter pages: a family and its label values in 64 bits.

use crate::catalogue::{Family, Kind, Label};
use crate::names::NameId;

/// Which series an entry counts: the family in the upper 16 bits, then the label values in the
/// order of the catalogue, then for histograms the number of the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u64);

/// Part of a histogram that holds the sum; the parts before it are the buckets.
pub(crate) const PART_SUM: u8 = crate::catalogue::BUCKETS_NS.len() as u8 + 1;

/// A request that ended without a status (an upstream that did not answer).
pub const STATUS_UNKNOWN: u16 = 0;
pub(crate) const STATUS_OTHER: u16 = u16::MAX;

/// Declares a closed set of label values: an enum whose numbers go into keys, and its words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $words:ident: $($(#[$about:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$about])* #[doc = concat!("`", $word, "`")] $variant,)*
        }

        pub(crate) const $words: &[&str] = &[$($word),*];

        impl $name {
            /// The label value.
            pub const fn as_str(self) -> &'static str {
                $words[self as usize]
            }
        }
    };
}

words! {
    /// The `method` label. Methods that nobody registered are one value, so that clients cannot
    /// make series.
    Method, METHODS:
    Get = "GET",
    Head = "HEAD",
    Post = "POST",
    Put = "PUT",
    Delete = "DELETE",
    Patch = "PATCH",
    Options = "OPTIONS",
    Connect = "CONNECT",
    Trace = "TRACE",
    /// Any other, or none that could be read.
    Other = "other",
}

words! {
    /// The `path_kind` label: which way the reply came.
    PathKind, PATH_KINDS:
    Prepared = "prepared",
    Armed = "armed",
    Files = "files",
    Proxy = "proxy",
    Dynamic = "dynamic",
    Error = "error",
}

words! {
    /// The `chain` label: which linked chain carried a prepared reply.
    Chain, CHAINS:
    /// The reply, then the next receive.
    ReplyRecv = "reply_recv",
    /// A receive armed with its reply.
    RecvReply = "recv_reply",
    /// The reply, then shutdown and close.
    Last = "last",
}

words! {
    /// The `result` label of prepared sends.
    SendResult, SEND_RESULTS:
    Queued = "queued",
    Failed = "failed",
}

words! {
    /// The `result` label of caches.
    CacheResult, CACHE_RESULTS:
    Hit = "hit",
    Stale = "stale",
    Miss = "miss",
    Coalesced = "coalesced",
    Bypass = "bypass",
}

impl Method {
    /// The label of a method as the request line has it.
    pub fn from_token(token: &[u8]) -> Self {
        match token {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"PATCH" => Self::Patch,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            _ => Self::Other,
        }
    }
}

impl Key {
    pub(crate) const NUMBER_OTHER: u16 = u16::MAX;
    pub(crate) const NUMBER_NONE: u16 = u16::MAX - 1;

    /// Requests answered.
    pub fn http_requests(route: NameId, method: Method, code: u16, path_kind: PathKind) -> Self {
        Self::new(Family::HttpRequests, &[route.0, method as u16, code, path_kind as u16])
    }

    /// Request durations. There is none for [`PathKind::Armed`]: such replies are unmeasured.
    pub fn http_request_duration(route: NameId, path_kind: PathKind) -> Self {
        debug_assert!(path_kind != PathKind::Armed, "armed replies are unmeasured");
        Self::new(Family::HttpRequestDuration, &[route.0, path_kind as u16])
    }

    /// Bytes of replies.
    pub fn http_response_bytes(route: NameId) -> Self {
        Self::new(Family::HttpResponseBytes, &[route.0])
    }

    /// Dispatched requests not answered yet.
    pub fn http_requests_in_flight() -> Self {
        Self::new(Family::HttpRequestsInFlight, &[])
    }

    /// Connections accepted.
    pub fn connections_accepted(listener: NameId, worker: u16) -> Self {
        Self::new(Family::ConnectionsAccepted, &[listener.0, worker])
    }

    /// Connections open now.
    pub fn connections_active(listener: NameId, worker: u16) -> Self {
        Self::new(Family::ConnectionsActive, &[listener.0, worker])
    }

    /// Connections closed.
    pub fn connections_closed(listener: NameId, worker: u16, reason: NameId) -> Self {
        Self::new(Family::ConnectionsClosed, &[listener.0, worker, reason.0])
    }

    /// Threads whose accepting waits.
    pub fn connections_paused(listener: NameId, worker: u16) -> Self {
        Self::new(Family::ConnectionsPaused, &[listener.0, worker])
    }

    /// Times that accepting began to wait.
    pub fn connections_pauses(listener: NameId, worker: u16, reason: NameId) -> Self {
        Self::new(Family::ConnectionsPauses, &[listener.0, worker, reason.0])
    }

    /// Lines of the access log that were dropped.
    pub fn access_log_dropped(worker: u16) -> Self {
        Self::new(Family::AccessLogDropped, &[worker])
    }

    /// Requests that could not be read.
    pub fn parse_errors(reason: NameId) -> Self {
        Self::new(Family::ParseErrors, &[reason.0])
    }

    /// Requests turned away at the limit of requests under way.
    pub fn http_requests_shed(route: NameId) -> Self {
        Self::new(Family::HttpRequestsShed, &[route.0])
    }

    /// Requests refused by a rate limit.
    pub fn rate_limited(route: NameId) -> Self {
        Self::new(Family::RateLimited, &[route.0])
    }

    /// Prepared replies sent.
    pub fn prepared_sends(route: NameId, chain: Chain, result: SendResult) -> Self {
        Self::new(Family::PreparedSends, &[route.0, chain as u16, result as u16])
    }

    /// Requests for prepared routes that were dispatched all the same.
    pub fn prepared_fallthrough(reason: NameId) -> Self {
        Self::new(Family::PreparedFallthrough, &[reason.0])
    }

    /// Submission queue entries.
    pub fn uring_sqe_submitted(worker: u16) -> Self {
        Self::new(Family::UringSqeSubmitted, &[worker])
    }

    /// Completion queue entries.
    pub fn uring_cqe(worker: u16, op: NameId, result: NameId) -> Self {
        Self::new(Family::UringCqe, &[worker, op.0, result.0])
    }

    /// Calls of io_uring_enter.
    pub fn uring_enter(worker: u16) -> Self {
        Self::new(Family::UringEnter, &[worker])
    }

    /// Overflows of the completion queue.
    pub fn uring_cq_overflow(worker: u16) -> Self {
        Self::new(Family::UringCqOverflow, &[worker])
    }

    /// Receives without a buffer.
    pub fn uring_buffers_exhausted(worker: u16) -> Self {
        Self::new(Family::UringBuffersExhausted, &[worker])
    }

    /// Cache look-ups.
    pub fn cache_requests(cache: NameId, result: CacheResult) -> Self {
        Self::new(Family::CacheRequests, &[cache.0, result as u16])
    }

    /// Requests to an upstream; [`STATUS_UNKNOWN`] where none came back.
    pub fn upstream_requests(upstream: NameId, code: u16) -> Self {
        Self::new(Family::UpstreamRequests, &[upstream.0, code])
    }

    /// Restarts of a worker.
    pub fn worker_restarts(worker: u16) -> Self {
        Self::new(Family::WorkerRestarts, &[worker])
    }

    /// CPU time of a worker, in nanoseconds; `none` is exposed for a host without NUMA.
    pub fn worker_cpu(worker: u16, numa_node: Option<u16>) -> Self {
        let node = numa_node.unwrap_or(Self::NUMBER_NONE);
        Self::new(Family::WorkerCpu, &[worker, node])
    }

    /// Whether an upstream is up.
    pub fn upstream_up(upstream: NameId) -> Self {
        Self::new(Family::UpstreamUp, &[upstream.0])
    }

    /// Whether a tuned setting drifted.
    pub fn tune_drift(key: NameId) -> Self {
        Self::new(Family::TuneDrift, &[key.0])
    }

    /// Misaligned interrupts of a NIC.
    pub fn irq_misaligned(nic: NameId) -> Self {
        Self::new(Family::IrqMisaligned, &[nic.0])
    }

    /// Whether the last reload succeeded.
    pub fn config_last_reload_success() -> Self {
        Self::new(Family::ConfigLastReloadSuccess, &[])
    }

    /// Unix seconds of the last reload that succeeded.
    pub fn config_last_reload_success_timestamp() -> Self {
        Self::new(Family::ConfigLastReloadSuccessTimestamp, &[])
    }

    /// The family this key belongs to; none where a page holds what this version does not know.
    pub fn family(self) -> Option<Family> {
        Family::from_number((self.0 >> 48) as u16)
    }

    pub(crate) fn new(family: Family, values: &[u16]) -> Self {
        let labels = family.description().labels;
        debug_assert_eq!(labels.len(), values.len(), "{family:?}");
        let mut bits = u64::from(family as u16) << 48;
        let mut shift = 48;
        for (label, &value) in labels.iter().zip(values) {
            shift -= label.bits();
            let mask = (1 << label.bits()) - 1;
            bits |= (u64::from(value) & mask) << shift;
        }
        Self(bits)
    }

    /// The entry that takes what a full page has no room for: every label says `other`.
    pub(crate) fn overflow(family: Family) -> Self {
        let labels = family.description().labels;
        let mut values = [u16::MAX; 6];
        for (value, label) in values.iter_mut().zip(labels) {
            if let Label::Name(_) = label {
                *value = NameId::OTHER.0;
            }
        }
        let key = Self::new(family, &values[..labels.len()]);
        // Where there is no label to tell the two apart, a bit that no label uses does.
        if labels.is_empty() { Self(key.0 | 1 << 47) } else { key }
    }

    pub(crate) fn with_part(self, part: u8) -> Self {
        Self(self.0 & !0xff | u64::from(part))
    }

    /// The part of a histogram's entry, and the key of the histogram.
    pub(crate) fn split_part(self) -> (Self, u8) {
        (Self(self.0 & !0xff), (self.0 & 0xff) as u8)
    }

    pub(crate) fn is_kind(self, kind: Kind) -> bool {
        self.family().is_some_and(|family| family.description().kind == kind)
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The value of each of these labels, in order.
    pub(crate) fn values(self, labels: &[Label]) -> impl Iterator<Item = u16> {
        let mut shift = 48;
        labels.iter().map(move |label| {
            shift -= label.bits();
            ((self.0 >> shift) & ((1 << label.bits()) - 1)) as u16
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::CATALOGUE;

    #[test]
    fn values_come_back() {
        let key = Key::http_requests(NameId(0xabcd), Method::Patch, 431, PathKind::Error);
        assert_eq!(key.family(), Some(Family::HttpRequests));
        let labels = Family::HttpRequests.description().labels;
        let expected = [0xabcd, Method::Patch as u16, 431, PathKind::Error as u16];
        assert!(key.values(labels).eq(expected));
    }

    #[test]
    fn parts_do_not_touch_labels() {
        let key = Key::http_request_duration(NameId(u16::MAX), PathKind::Error);
        for part in 0..=PART_SUM {
            assert_eq!(key.with_part(part).split_part(), (key, part));
        }
    }

    #[test]
    fn overflow_keys_are_distinct_and_say_other() {
        let names = crate::Names::new();
        let mut seen = std::collections::HashSet::new();
        for description in &CATALOGUE {
            let key = Key::overflow(description.family);
            assert_eq!(key.family(), Some(description.family));
            assert!(seen.insert(key));
            for (label, value) in description.labels.iter().zip(key.values(description.labels)) {
                assert_eq!(label.text(value, &names), "other", "{}", description.name);
            }
        }
    }

    #[test]
    fn unknown_families_have_none() {
        assert_eq!(Key::from_bits(u64::MAX).family(), None);
    }

    #[test]
    fn methods_read_from_the_wire_are_their_labels() {
        for word in METHODS {
            assert_eq!(Method::from_token(word.as_bytes()).as_str(), *word);
        }
        assert_eq!(Method::from_token(b"get"), Method::Other);
    }
}
