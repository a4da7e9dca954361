//! Every metric that emberd exposes, in one table.

use crate::key::{
    CACHE_RESULTS, CHAINS, Key, METHODS, PATH_KINDS, SEND_RESULTS, STATUS_OTHER, STATUS_UNKNOWN,
};
use crate::names::Names;

/// A metric family. The numbers are written into shared pages that outlive a binary upgrade:
/// never change one, add new families at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Family {
    /// `emberd_http_requests_total`
    HttpRequests = 0,
    /// `emberd_http_request_duration_seconds`
    HttpRequestDuration = 1,
    /// `emberd_http_response_bytes_total`
    HttpResponseBytes = 2,
    /// `emberd_http_requests_in_flight`
    HttpRequestsInFlight = 3,
    /// `emberd_connections_accepted_total`
    ConnectionsAccepted = 4,
    /// `emberd_connections_active`
    ConnectionsActive = 5,
    /// `emberd_connections_closed_total`
    ConnectionsClosed = 6,
    /// `emberd_parse_errors_total`
    ParseErrors = 7,
    /// `emberd_rate_limited_total`
    RateLimited = 8,
    /// `emberd_prepared_sends_total`
    PreparedSends = 9,
    /// `emberd_prepared_fallthrough_total`
    PreparedFallthrough = 10,
    /// `emberd_uring_sqe_submitted_total`
    UringSqeSubmitted = 11,
    /// `emberd_uring_cqe_total`
    UringCqe = 12,
    /// `emberd_uring_enter_total`
    UringEnter = 13,
    /// `emberd_uring_cq_overflow_total`
    UringCqOverflow = 14,
    /// `emberd_uring_buffers_exhausted_total`
    UringBuffersExhausted = 15,
    /// `emberd_cache_requests_total`
    CacheRequests = 16,
    /// `emberd_upstream_requests_total`
    UpstreamRequests = 17,
    /// `emberd_upstream_up`
    UpstreamUp = 18,
    /// `emberd_worker_restarts_total`
    WorkerRestarts = 19,
    /// `emberd_worker_cpu_seconds_total`
    WorkerCpu = 20,
    /// `emberd_tune_drift`
    TuneDrift = 21,
    /// `emberd_irq_misaligned`
    IrqMisaligned = 22,
    /// `emberd_backend_info`
    BackendInfo = 23,
    /// `emberd_build_info`
    BuildInfo = 24,
    /// `emberd_config_last_reload_success`
    ConfigLastReloadSuccess = 25,
    /// `emberd_config_last_reload_success_timestamp_seconds`
    ConfigLastReloadSuccessTimestamp = 26,
    /// `process_cpu_seconds_total`
    ProcessCpu = 27,
    /// `process_open_fds`
    ProcessOpenFds = 28,
    /// `process_max_fds`
    ProcessMaxFds = 29,
    /// `process_virtual_memory_bytes`
    ProcessVirtualMemory = 30,
    /// `process_resident_memory_bytes`
    ProcessResidentMemory = 31,
    /// `process_start_time_seconds`
    ProcessStartTime = 32,
    /// `process_threads`
    ProcessThreads = 33,
    /// `emberd_connections_paused`
    ConnectionsPaused = 34,
    /// `emberd_connections_pauses_total`
    ConnectionsPauses = 35,
    /// `emberd_access_log_dropped_total`
    AccessLogDropped = 36,
    /// `emberd_http_requests_shed_total`
    HttpRequestsShed = 37,
}

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; added over threads.
    Counter,
    /// Goes up and down; added over threads.
    Gauge,
    /// Buckets and a sum; added over threads.
    Histogram,
}

/// One label of a family: its name and how its value is kept in a [`Key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// An interned text of [`Names`].
    Name(&'static str),
    /// One of a closed set of words, by its place in the set.
    Word(&'static str, &'static [&'static str]),
    /// An HTTP status code.
    Status(&'static str),
    /// A number as it is: a worker, a NUMA node.
    Number(&'static str),
}

/// What the stored integer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The exposed unit itself.
    Units,
    /// Nanoseconds, exposed as seconds.
    Nanoseconds,
}

/// The line of one family in the table.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Which family this is.
    pub family: Family,
    /// The exposed name, with `_total` for counters.
    pub name: &'static str,
    /// The HELP text.
    pub help: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// Its labels, in the order of exposition.
    pub labels: &'static [Label],
    /// What the stored integer counts.
    pub stored: Stored,
}

/// Upper bounds of the histogram buckets in nanoseconds, 10 us to 10 s; a bucket without bound
/// follows.
pub const BUCKETS_NS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How many families there are.
pub const FAMILIES: usize = CATALOGUE.len();

/// All families, in the order of their numbers and of exposition.
pub static CATALOGUE: [Description; 38] = {
    use Family as F;
    use Label::{Name, Number, Status, Word};
    [
        counter(
            F::HttpRequests,
            "emberd_http_requests_total",
            "Requests answered, by route, method, status code and the path that answered.",
            &[
                Name("route"),
                Word("method", METHODS),
                Status("code"),
                Word("path_kind", PATH_KINDS),
            ],
        ),
        Description {
            family: F::HttpRequestDuration,
            name: "emberd_http_request_duration_seconds",
            help: "Time from the receipt of a request's head to the hand-over of its reply to \
                   the kernel. Armed replies leave before user space wakes: they are unmeasured \
                   and have no series.",
            kind: Kind::Histogram,
            labels: &[Name("route"), Word("path_kind", PATH_KINDS)],
            stored: Stored::Nanoseconds,
        },
        counter(
            F::HttpResponseBytes,
            "emberd_http_response_bytes_total",
            "Bytes of replies, heads included, handed to the kernel.",
            &[Name("route")],
        ),
        gauge(
            F::HttpRequestsInFlight,
            "emberd_http_requests_in_flight",
            "Dispatched requests that have not been answered yet.",
            &[],
        ),
        counter(
            F::ConnectionsAccepted,
            "emberd_connections_accepted_total",
            "Connections accepted.",
            &[Name("listener"), Number("worker")],
        ),
        gauge(
            F::ConnectionsActive,
            "emberd_connections_active",
            "Connections open now.",
            &[Name("listener"), Number("worker")],
        ),
        counter(
            F::ConnectionsClosed,
            "emberd_connections_closed_total",
            "Connections closed, by the reason that ended them.",
            &[Name("listener"), Number("worker"), Name("reason")],
        ),
        counter(
            F::ParseErrors,
            "emberd_parse_errors_total",
            "Requests refused because they could not be read as HTTP.",
            &[Name("reason")],
        ),
        counter(
            F::RateLimited,
            "emberd_rate_limited_total",
            "Requests refused by a rate limit.",
            &[Name("route")],
        ),
        counter(
            F::PreparedSends,
            "emberd_prepared_sends_total",
            "Prepared replies by the chain that carried them. result=\"queued\" counts replies \
             handed to the ring, whose success makes no completion; result=\"failed\" counts \
             those of them whose send failed.",
            &[Name("route"), Word("chain", CHAINS), Word("result", SEND_RESULTS)],
        ),
        counter(
            F::PreparedFallthrough,
            "emberd_prepared_fallthrough_total",
            "Requests for a prepared route that went to the dispatch loop, by reason.",
            &[Name("reason")],
        ),
        counter(
            F::UringSqeSubmitted,
            "emberd_uring_sqe_submitted_total",
            "Submission queue entries handed to the kernel.",
            &[Number("worker")],
        ),
        counter(
            F::UringCqe,
            "emberd_uring_cqe_total",
            "Completion queue entries read, by operation and class of result.",
            &[Number("worker"), Name("op"), Name("result")],
        ),
        counter(
            F::UringEnter,
            "emberd_uring_enter_total",
            "Calls of io_uring_enter.",
            &[Number("worker")],
        ),
        counter(
            F::UringCqOverflow,
            "emberd_uring_cq_overflow_total",
            "Completions that found the completion queue full.",
            &[Number("worker")],
        ),
        counter(
            F::UringBuffersExhausted,
            "emberd_uring_buffers_exhausted_total",
            "Receives that found no provided buffer.",
            &[Number("worker")],
        ),
        counter(
            F::CacheRequests,
            "emberd_cache_requests_total",
            "Look-ups in a cache, by result.",
            &[Name("cache"), Word("result", CACHE_RESULTS)],
        ),
        counter(
            F::UpstreamRequests,
            "emberd_upstream_requests_total",
            "Requests sent to an upstream, by the status it answered.",
            &[Name("upstream"), Status("code")],
        ),
        gauge(
            F::UpstreamUp,
            "emberd_upstream_up",
            "1 where the upstream passes its health check, else 0.",
            &[Name("upstream")],
        ),
        counter(
            F::WorkerRestarts,
            "emberd_worker_restarts_total",
            "Times a worker process was started again after it had failed.",
            &[Number("worker")],
        ),
        Description {
            family: F::WorkerCpu,
            name: "emberd_worker_cpu_seconds_total",
            help: "CPU time, user and system, of a worker's ring threads.",
            kind: Kind::Counter,
            labels: &[Number("worker"), Number("numa_node")],
            stored: Stored::Nanoseconds,
        },
        gauge(
            F::TuneDrift,
            "emberd_tune_drift",
            "1 where a tuned setting no longer has the value that was applied, else 0.",
            &[Name("key")],
        ),
        gauge(
            F::IrqMisaligned,
            "emberd_irq_misaligned",
            "NIC queues whose interrupts do not go to their worker's CPU.",
            &[Name("nic")],
        ),
        gauge(
            F::BackendInfo,
            "emberd_backend_info",
            "1, labelled with the I/O backend in use and why it was chosen.",
            &[Name("backend"), Name("reason")],
        ),
        gauge(
            F::BuildInfo,
            "emberd_build_info",
            "1, labelled with the version that runs.",
            &[Name("version")],
        ),
        gauge(
            F::ConfigLastReloadSuccess,
            "emberd_config_last_reload_success",
            "1 where the last load or reload of the config succeeded, else 0.",
            &[],
        ),
        gauge(
            F::ConfigLastReloadSuccessTimestamp,
            "emberd_config_last_reload_success_timestamp_seconds",
            "Unix time of the last successful load or reload of the config.",
            &[],
        ),
        counter(
            F::ProcessCpu,
            "process_cpu_seconds_total",
            "CPU time, user and system, of all the server's processes, ended workers included.",
            &[],
        ),
        gauge(
            F::ProcessOpenFds,
            "process_open_fds",
            "Open descriptors of those of the server's processes that may be looked into.",
            &[],
        ),
        gauge(
            F::ProcessMaxFds,
            "process_max_fds",
            "Descriptors that the processes of process_open_fds may open.",
            &[],
        ),
        gauge(
            F::ProcessVirtualMemory,
            "process_virtual_memory_bytes",
            "Address space of all the server's processes.",
            &[],
        ),
        gauge(
            F::ProcessResidentMemory,
            "process_resident_memory_bytes",
            "Resident memory of all the server's processes; shared pages count in each of them.",
            &[],
        ),
        gauge(
            F::ProcessStartTime,
            "process_start_time_seconds",
            "Unix time at which the server's oldest process started.",
            &[],
        ),
        gauge(F::ProcessThreads, "process_threads", "Threads of the server's processes.", &[]),
        gauge(
            F::ConnectionsPaused,
            "emberd_connections_paused",
            "Threads whose accepting waits now, since their share of limits.max_connections is used \
             up or the system has no more to give.",
            &[Name("listener"), Number("worker")],
        ),
        counter(
            F::ConnectionsPauses,
            "emberd_connections_pauses_total",
            "Times that accepting began to wait, by what there was too little of: the limit's \
             connections, descriptors or memory.",
            &[Name("listener"), Number("worker"), Name("reason")],
        ),
        counter(
            F::AccessLogDropped,
            "emberd_access_log_dropped_total",
            "Lines of the access log that were dropped because its buffer was full.",
            &[Number("worker")],
        ),
        counter(
            F::HttpRequestsShed,
            "emberd_http_requests_shed_total",
            "Requests answered with 503, since handlers had as many as limits.max_in_flight allows.",
            &[Name("route")],
        ),
    ]
};

const fn counter(
    family: Family,
    name: &'static str,
    help: &'static str,
    labels: &'static [Label],
) -> Description {
    Description { family, name, help, kind: Kind::Counter, labels, stored: Stored::Units }
}

const fn gauge(
    family: Family,
    name: &'static str,
    help: &'static str,
    labels: &'static [Label],
) -> Description {
    Description { family, name, help, kind: Kind::Gauge, labels, stored: Stored::Units }
}

impl Family {
    /// This family's line of the table.
    pub fn description(self) -> &'static Description {
        &CATALOGUE[self as usize]
    }

    /// The family with this number, if there is one.
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        CATALOGUE.get(usize::from(number)).map(|description| description.family)
    }
}

impl Label {
    /// The label's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Name(name) | Self::Word(name, _) | Self::Status(name) | Self::Number(name) => {
                name
            }
        }
    }

    /// How many bits of a [`Key`] its value takes.
    pub(crate) const fn bits(&self) -> u32 {
        match self {
            Self::Word(..) => 8,
            Self::Name(_) | Self::Status(_) | Self::Number(_) => 16,
        }
    }

    /// The text of a value. What cannot be told is `other`: a full table's shared entry, or a
    /// name that was interned after the reader got its [`Names`].
    pub(crate) fn text<'a>(&self, value: u16, names: &'a Names) -> std::borrow::Cow<'a, str> {
        match self {
            Self::Name(_) => names.text(value).into(),
            Self::Word(_, words) => {
                words.get(usize::from(value)).copied().unwrap_or("other").into()
            }
            Self::Status(_) if value == STATUS_UNKNOWN => "none".into(),
            Self::Status(_) if value == STATUS_OTHER => "other".into(),
            Self::Number(_) if value == Key::NUMBER_NONE => "none".into(),
            Self::Number(_) if value == Key::NUMBER_OTHER => "other".into(),
            Self::Status(_) | Self::Number(_) => value.to_string().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_numbers() {
        for (number, description) in CATALOGUE.iter().enumerate() {
            assert_eq!(description.family as usize, number, "{}", description.name);
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = std::collections::HashSet::new();
        for description in &CATALOGUE {
            let name = description.name;
            assert!(seen.insert(name), "{name} twice");
            assert!(name.starts_with("emberd_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), description.kind == Kind::Counter, "{name}");
            assert!(description.help.ends_with('.') && !description.help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn labels_fit_a_key() {
        for description in &CATALOGUE {
            let bits: u32 = description.labels.iter().map(Label::bits).sum();
            let room = if description.kind == Kind::Histogram { 40 } else { 48 };
            assert!(bits <= room, "{}: {bits} bits", description.name);
        }
    }

    #[test]
    fn no_label_names_a_host_a_url_or_a_client() {
        for description in &CATALOGUE {
            for label in description.labels {
                let name = label.name();
                assert!(
                    !["host", "url", "uri", "path", "client", "peer", "instance", "le"]
                        .contains(&name),
                    "{} has the label {name}",
                    description.name
                );
            }
        }
    }
}
