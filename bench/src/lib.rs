//! Load generator, peers and reports of emberd.
#![forbid(unsafe_code)]

pub mod host;
pub mod load;
