//! Two connections that are made one: what comes in by either goes out by the other.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use ember::net::Stream;
use ember_uring::Payload;

use super::Loaded;
use super::watch::Watch;

/// One direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// The end has come; the other side is to be told when all is out.
    Ending,
    Over,
}

/// Passes bytes on in both directions until both have ended, one has failed, or nothing has moved
/// for `limit`. An upstream's bytes are received only as fast as the client takes them, and the
/// other way round.
pub(super) async fn run(mut client: Stream, upstream: Option<(Loaded, Stream)>, limit: Duration) {
    let Some((_loaded, mut upstream)) = upstream else { return };
    let (mut up, mut down) = (Way::Open, Way::Open);
    let mut watch = Watch::default();
    watch.start(limit);
    poll_fn(|cx| {
        let before = (up, down);
        let moved = [
            pass(cx, &mut client, &mut upstream, &mut up),
            pass(cx, &mut upstream, &mut client, &mut down),
        ];
        if moved.iter().any(Result::is_err) || (up, down) == (Way::Over, Way::Over) {
            return Poll::Ready(());
        }
        if before != (up, down) || moved.iter().any(|moved| matches!(moved, Ok(true))) {
            watch.start(limit);
        }
        watch.poll(cx)
    })
    .await;
}

/// Passes on what there is; whether that was anything.
fn pass(
    cx: &mut Context<'_>,
    from: &mut Stream,
    to: &mut Stream,
    way: &mut Way,
) -> io::Result<bool> {
    let mut moved = false;
    loop {
        if *way == Way::Over || to.poll_writable(cx)?.is_pending() {
            return Ok(moved);
        }
        if *way == Way::Ending {
            to.start_send(Payload::Owned(Vec::new()), true);
            *way = Way::Over;
            return Ok(true);
        }
        match from.poll_fill(cx, 0)? {
            Poll::Pending => return Ok(moved),
            Poll::Ready(0) => *way = Way::Ending,
            Poll::Ready(_) => {
                to.start_send(Payload::Owned(from.take_buffer()), false);
                moved = true;
            }
        }
    }
}
