//! Load generator, peers and reports of emberd.
//!
//! [`load`] makes load and checks every reply. [`rows`] says what is measured, [`peers`] starts
//! the servers, [`run`] measures them in interleaved rounds with their CPU time and memory
//! ([`host`]), [`results`] keeps every sample, and [`report`] shows and compares them.
#![forbid(unsafe_code)]

pub mod cost;
pub mod host;
pub mod load;
pub mod peers;
pub mod report;
pub mod results;
pub mod rows;
pub mod run;
pub mod stats;
