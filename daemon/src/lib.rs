//! The best HTTP daemon for bare-metal Linux hosts.

#![forbid(unsafe_code)]
// A program's modules are documented for those who work on it: they may point at each other.
#![allow(rustdoc::private_intra_doc_links)]

mod access_log;
mod admin;
mod application;
pub mod boot;
pub mod cli;
mod client;
pub mod config;
pub mod control;
pub mod doctor;
pub mod explain;
mod files;
mod log;
mod proxy;
pub mod routes;
mod rules;
pub mod supervisor;
mod top;
pub mod tune;
pub mod worker;

pub use application::{main, run};
