//! Counter pages in shared memory, the catalogue of metrics and their text rendering.
//!
//! The supervisor creates [`Pages`] and interns label values in [`Names`]. Each ring thread takes
//! the writer of one [`Page`], makes handles for the series it counts, and adds through them: one
//! relaxed load and one relaxed store, without a lock and without hashing. What readers need
//! besides the pages, the names above all, the supervisor puts up as a [`Board`] in the same
//! memory. Whoever is asked for the metrics calls [`scrape`], in any of the server's processes.
//!
//! ```
//! use ember_metrics::{Board, Format, Key, Method, Pages, PathKind, scrape};
//!
//! let pages = Pages::create(1, ember_metrics::CAPACITY_DEFAULT)?;
//! let mut board = Board::default();
//! let route = board.names.intern("/hello");
//! board.facts.build("0.1.0");
//! pages.post(&board)?;
//!
//! let mut page = pages.page(0)?;
//! let hits = page.counter(Key::http_requests(route, Method::Get, 200, PathKind::Prepared));
//! let duration = page.histogram(Key::http_request_duration(route, PathKind::Prepared));
//! page.add(hits, 3);
//! page.observe_many(duration, 12_000, 3);
//!
//! let text = scrape(&pages, Format::negotiate(Some("*/*")));
//! assert!(text.contains("emberd_build_info{version=\"0.1.0\"} 1\n"));
//! # Ok::<(), std::io::Error>(())
//! ```

#![deny(unsafe_code)]

mod board;
mod catalogue;
mod format;
mod key;
mod names;
mod pages;
mod process;
mod render;
#[allow(unsafe_code)]
mod shared;

pub use board::{BOARD_BYTES_MAX, Board};
pub use catalogue::{BUCKETS_NS, CATALOGUE, Description, FAMILIES, Family, Kind, Label, Stored};
pub use format::Format;
pub use key::{CacheResult, Chain, Key, Method, PathKind, STATUS_UNKNOWN, SendResult};
pub use names::{NAME_BYTES_MAX, NAMES_MAX, NameId, Names, NamesError};
pub use pages::{
    CAPACITY_DEFAULT, CAPACITY_MAX, Counter, Gauge, Histogram, PAGES_MAX, Page, Pages,
};
pub use process::Processes;
pub use render::{Facts, families, render, scrape, scrape_with};
pub use shared::Words;
