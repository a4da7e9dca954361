//! Counter pages in shared memory, the catalogue of metrics and their text rendering.
//!
//! The supervisor creates [`Pages`] and interns label values in [`Names`]. Each ring thread takes
//! the writer of one [`Page`], makes handles for the series it counts, and adds through them: one
//! relaxed load and one relaxed store, without a lock and without hashing. Whoever is asked for
//! the metrics reads all pages and calls [`render`].
//!
//! ```
//! use ember_metrics::{Facts, Key, Method, Names, Pages, PathKind, render};
//!
//! let pages = Pages::create(1, ember_metrics::CAPACITY_DEFAULT)?;
//! let mut names = Names::new();
//! let route = names.intern("/hello");
//!
//! let mut page = pages.page(0)?;
//! let hits = page.counter(Key::http_requests(route, Method::Get, 200, PathKind::Prepared));
//! let duration = page.histogram(Key::http_request_duration(route, PathKind::Prepared));
//! page.add(hits, 3);
//! page.observe_many(duration, 12_000, 3);
//!
//! let text = render(&pages, &names, Facts::new().build("0.1.0"));
//! assert!(text.contains("emberd_build_info{version=\"0.1.0\"} 1\n"));
//! # Ok::<(), std::io::Error>(())
//! ```

#![deny(unsafe_code)]

mod catalogue;
mod key;
mod names;
mod pages;
mod process;
mod render;
#[allow(unsafe_code)]
mod shared;

pub use catalogue::{BUCKETS_NS, CATALOGUE, Description, FAMILIES, Family, Kind, Label, Stored};
pub use key::{CacheResult, Chain, Key, Method, PathKind, STATUS_UNKNOWN, SendResult};
pub use names::{NAME_BYTES_MAX, NAMES_MAX, NameId, Names, NamesError};
pub use pages::{
    CAPACITY_DEFAULT, CAPACITY_MAX, Counter, Gauge, Histogram, PAGES_MAX, Page, Pages,
};
pub use process::Processes;
pub use render::{Facts, families, render};
