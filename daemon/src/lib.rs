//! The best HTTP daemon for bare-metal Linux hosts.

#![forbid(unsafe_code)]

mod admin;
mod application;
pub mod boot;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod explain;
pub mod routes;
pub mod supervisor;
pub mod tune;
pub mod worker;

pub use application::{main, run};
