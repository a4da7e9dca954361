//! `emberd top`: the running server, live.
//!
//! Both of what is shown, the status and the metrics, come over the control socket, so that it
//! works without an admin listener. [`scrape`] reads the metrics, [`view`] makes rates of two
//! readings, and [`screen`] or [`lines`] shows them.

mod lines;
mod scrape;
mod screen;
mod view;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{ConfigArgs, Failure, say};
use crate::config;
use crate::supervisor::{self, Request};
use scrape::Families;
use view::View;

/// What the server said at one moment.
#[derive(Debug)]
struct Moment {
    at: Instant,
    status: Value,
    families: Families,
}

/// Shows the server whose state directory the config names: on a terminal until a key says
/// otherwise, else as lines until nobody reads them.
///
/// # Errors
/// No server is there, or it went away while its lines were printed.
pub(crate) fn run(args: &ConfigArgs, once: bool, interval: Duration) -> Result<(), Failure> {
    let state_dir = config::state_dir(&args.sources());
    let mut before = ask(&state_dir).map_err(gone)?;
    if !once && io::stdout().is_terminal() {
        let told = screen::run(&state_dir, interval, before);
        return told.map_err(|error| Failure::Other(format!("the terminal: {error}")));
    }
    loop {
        std::thread::sleep(interval);
        let now = ask(&state_dir).map_err(gone)?;
        let text = lines::render(&View::between(&before, &now));
        if once {
            return say(&text);
        }
        // A pipe that nobody reads any more ends it: say() takes that for well.
        if lines::write(&text).is_err() {
            return Ok(());
        }
        before = now;
    }
}

fn ask(state_dir: &Path) -> io::Result<Moment> {
    let status = supervisor::ask(state_dir, Request::Status)?;
    let metrics = supervisor::ask(state_dir, Request::Metrics)?;
    if !metrics.ok {
        // An older program is asked, which does not know the request.
        return Err(io::Error::other(metrics.message));
    }
    let families = Families::parse(&metrics.message);
    Ok(Moment { at: Instant::now(), status: status.status.unwrap_or_default(), families })
}

fn gone(error: io::Error) -> Failure {
    Failure::Other(format!("cannot ask the server: {error}"))
}
