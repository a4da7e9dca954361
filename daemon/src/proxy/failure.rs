//! Why a request got no reply of an upstream, and what the client is told.

use std::fmt;
use std::io;
use std::time::Duration;

use ember::{Error, IntoResponse, Response};
use ember_http::upstream::Fault;

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum Failure {
    /// No upstream is up.
    NoneUp,
    /// The upstream of this number has failed.
    Upstream {
        /// Its number in the config, from 0.
        at: usize,
        /// Of so many.
        count: usize,
        /// How.
        cause: Cause,
    },
    /// The client is at fault.
    Client(Error),
}

/// How an upstream has failed.
#[derive(Debug)]
pub(super) enum Cause {
    /// Its name has no address now.
    Name,
    /// It cannot be connected to.
    Connect(io::Error),
    /// A connection took too long.
    ConnectTime(Duration),
    /// The connection broke before a reply came.
    Broken(io::Error),
    /// It ended the connection without a reply.
    Nothing,
    /// No reply came in time.
    ResponseTime(Duration),
    /// The request's body could not be passed on for so long.
    Stalled(Duration),
    /// What it sent is not to be believed.
    Fault(Fault),
    /// Its reply's fields cannot be passed on.
    Field(String),
}

impl Failure {
    pub(super) fn status(&self) -> u16 {
        match self {
            Failure::NoneUp => 503,
            Failure::Upstream { cause, .. } => match cause {
                Cause::ConnectTime(_) | Cause::ResponseTime(_) | Cause::Stalled(_) => 504,
                _ => 502,
            },
            Failure::Client(error) => error.status(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoneUp => f.write_str("no upstream is up"),
            // Addresses are the operator's business; the number says which one it was.
            Failure::Upstream { at, count, cause } => {
                write!(f, "upstream {} of {count}: {cause}", at + 1)
            }
            Failure::Client(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Duration| humantime::format_duration(*time).to_string();
        match self {
            Cause::Name => f.write_str("its name has no address"),
            Cause::Connect(error) => write!(f, "it cannot be connected to: {error}"),
            Cause::ConnectTime(limit) => write!(f, "no connection came about in {}", time(limit)),
            Cause::Broken(error) => write!(f, "the connection broke: {error}"),
            Cause::Nothing => f.write_str("it ended the connection without a reply"),
            Cause::ResponseTime(limit) => write!(f, "no reply came in {}", time(limit)),
            Cause::Stalled(limit) => write!(f, "it took nothing more for {}", time(limit)),
            Cause::Fault(fault) => write!(f, "its reply cannot be passed on: {fault}"),
            Cause::Field(error) => write!(f, "its reply cannot be passed on: {error}"),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Client(error) => error.into_response(),
            _ => Error::new(self.status(), self.to_string()).into_response(),
        }
    }
}
