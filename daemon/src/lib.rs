//! The best HTTP daemon for bare-metal Linux hosts.

pub mod boot;
pub mod supervisor;
