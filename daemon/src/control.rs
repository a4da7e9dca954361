//! `emberd reload`, `drain`, `upgrade` and `status`: what is asked of a server that runs.

use crate::cli::{ConfigArgs, Failure, say};
use crate::config;
use crate::supervisor::{self, Request, render_status};

/// Asks the server whose state directory the config names, and prints its answer.
///
/// # Errors
/// No server is there, or it could not do what was asked; then in its own words.
pub fn ask(args: &ConfigArgs, request: Request, json: bool) -> Result<(), Failure> {
    // A config that the server will refuse must not keep its message from being seen.
    let state_dir = config::state_dir(&args.sources());
    let reply = supervisor::ask(&state_dir, request)
        .map_err(|error| Failure::Other(format!("cannot ask the server: {error}")))?;
    if !reply.ok {
        return Err(Failure::Other(reply.message));
    }
    match reply.status {
        Some(status) if json => say(&format!("{status:#}\n")),
        Some(status) => say(&render_status(&status)),
        None => say(&format!("{}\n", reply.message)),
    }
}
