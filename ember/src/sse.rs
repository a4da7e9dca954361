//! Server-sent events (WHATWG HTML, section 9.2).
//!
//! ```
//! use std::time::Duration;
//!
//! use ember::extract::LastEventId;
//! use ember::sse::{Event, Sse};
//! use ember::testing::Client;
//! use ember::{App, IntoResponse, Response};
//!
//! async fn countdown(LastEventId(seen): LastEventId) -> Response {
//!     let from: u32 = seen.and_then(|id| id.parse().ok()).unwrap_or(3);
//!     let (events, sse) = Sse::channel(8);
//!     ember::spawn(async move {
//!         for left in (0..from).rev() {
//!             let event = Event::new(format!("{left} left")).id(left).event("tick");
//!             if events.send(event).await.is_err() {
//!                 return; // the client is gone
//!             }
//!         }
//!     });
//!     sse.heartbeat(Duration::from_secs(15)).done("[DONE]").into_response()
//! }
//!
//! let client = Client::new(App::new().get("/countdown", countdown));
//! let reply = client.send("GET", "/countdown", &[("Last-Event-ID", "1")], "");
//! assert_eq!(reply.header("content-type"), Some("text/event-stream"));
//! assert_eq!(reply.text(), "event: tick\nid: 0\ndata: 0 left\n\ndata: [DONE]\n\n");
//! ```

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ember_uring::Piece;
use futures_core::Stream;

use crate::body::{Body, BodyStream};
use crate::channel::{self, Receiver, Sender};
use crate::response::{IntoResponse, Response};
use crate::time::{Sleep, sleep};

/// A reply of events, which the stream gives as fast as the client takes them.
#[derive(Debug)]
pub struct Sse<S> {
    stream: S,
    heartbeat: Option<Duration>,
    done: Option<String>,
}

/// One event, or a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    event: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
    comment: Option<String>,
    data: Option<String>,
}

impl Event {
    /// An event with this data, of any number of lines.
    #[must_use]
    pub fn new(data: impl Into<String>) -> Event {
        Event { data: Some(data.into()), ..Event::default() }
    }

    /// An event with JSON.
    ///
    /// # Errors
    /// 500 where the value has no JSON form.
    pub fn json(value: &impl serde::Serialize) -> crate::Result<Event> {
        let json = serde_json::to_string(value);
        json.map(Event::new).map_err(|error| crate::Error::new(500, error.to_string()))
    }

    /// What clients pass over.
    #[must_use]
    pub fn comment(text: impl Into<String>) -> Event {
        Event { comment: Some(text.into()), ..Event::default() }
    }

    /// With this name: `message` otherwise.
    #[must_use]
    pub fn event(mut self, name: impl Into<String>) -> Event {
        self.event = Some(name.into());
        self
    }

    /// With an id, which a client that connects again says in `Last-Event-ID`.
    #[must_use]
    pub fn id(mut self, id: impl fmt::Display) -> Event {
        self.id = Some(id.to_string());
        self
    }

    /// How long a client should wait before it connects again.
    #[must_use]
    pub fn retry(mut self, time: Duration) -> Event {
        self.retry = Some(time);
        self
    }

    /// As it stands in the stream.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::with_capacity(32 + self.data.as_ref().map_or(0, String::len));
        // A line's end in a name would begin another field; clients ignore ids with NUL.
        let one_line = |text: &str| text.replace(['\r', '\n', '\0'], " ");
        if let Some(comment) = &self.comment {
            lines(&mut out, "", comment);
        }
        if let Some(event) = &self.event {
            out += &format!("event: {}\n", one_line(event));
        }
        if let Some(id) = &self.id {
            out += &format!("id: {}\n", one_line(id));
        }
        if let Some(retry) = self.retry {
            out += &format!("retry: {}\n", retry.as_millis());
        }
        if let Some(data) = &self.data {
            lines(&mut out, "data", data);
        }
        out.push('\n');
        out.into_bytes()
    }
}

/// A field for each line: of `\n`, `\r\n` or `\r`, which all end one.
fn lines(out: &mut String, field: &str, text: &str) {
    let mut rest = text;
    loop {
        let (line, behind) = match rest.find(['\r', '\n']) {
            Some(at) => {
                let len = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
                (&rest[..at], Some(&rest[at + len..]))
            }
            None => (rest, None),
        };
        *out += field;
        *out += ": ";
        *out += line;
        out.push('\n');
        match behind {
            Some(behind) => rest = behind,
            None => return,
        }
    }
}

impl Sse<Receiver<Event>> {
    /// Events that are sent; of those that the client has not taken, `capacity` are kept until the
    /// sender has to wait.
    #[must_use]
    pub fn channel(capacity: usize) -> (Sender<Event>, Self) {
        let (sender, receiver) = channel::bounded(capacity);
        (sender, Sse::new(receiver))
    }
}

impl<S: Stream<Item = Event> + 'static> Sse<S> {
    /// The events of a stream.
    pub fn new(stream: S) -> Sse<S> {
        Sse { stream, heartbeat: None, done: None }
    }

    /// Sends a comment when there was no event for so long, so that nobody between takes the
    /// connection for dead, and a client that has gone is noticed.
    #[must_use]
    pub fn heartbeat(mut self, after: Duration) -> Self {
        self.heartbeat = Some(after);
        self
    }

    /// Sends an event with this data behind the last one, such as `[DONE]`.
    #[must_use]
    pub fn done(mut self, data: impl Into<String>) -> Self {
        self.done = Some(data.into());
        self
    }
}

impl<S: Stream<Item = Event> + 'static> IntoResponse for Sse<S> {
    fn into_response(self) -> Response {
        let Sse { stream, heartbeat, done } = self;
        let pulse = heartbeat.map(|every| Pulse { every, sleep: None, spoke: false });
        let events = Events { stream: Some(Box::pin(stream)), pulse, done };
        Response::new(200)
            .header("Content-Type", "text/event-stream")
            .header("Cache-Control", "no-cache")
            .header("X-Accel-Buffering", "no")
            .with_body(Body::stream(events))
    }
}

struct Events<S> {
    /// None behind its end.
    stream: Option<Pin<Box<S>>>,
    pulse: Option<Pulse>,
    done: Option<String>,
}

/// When to send a heartbeat. The timer is not set anew with each event; it looks back.
struct Pulse {
    every: Duration,
    sleep: Option<Sleep>,
    /// Since the timer was set.
    spoke: bool,
}

impl Pulse {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let timer = self.sleep.get_or_insert_with(|| sleep(self.every));
            std::task::ready!(Pin::new(timer).poll(cx));
            self.sleep = None;
            if !std::mem::take(&mut self.spoke) {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: Stream<Item = Event>> BodyStream for Events<S> {
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Piece>>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
        let bytes = match stream.as_mut().poll_next(cx) {
            Poll::Ready(Some(event)) => {
                if let Some(pulse) = &mut self.pulse {
                    pulse.spoke = true;
                }
                event.to_bytes()
            }
            Poll::Ready(None) => {
                self.stream = None;
                match self.done.take() {
                    Some(done) => Event::new(done).to_bytes(),
                    None => return Poll::Ready(None),
                }
            }
            Poll::Pending => {
                let Some(pulse) = &mut self.pulse else { return Poll::Pending };
                std::task::ready!(pulse.poll(cx));
                b":\n\n".to_vec()
            }
        };
        Poll::Ready(Some(Ok(Piece::Owned(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Client;
    use crate::{App, Request};

    #[test]
    fn data_cannot_leave_its_field() {
        let event = Event::new("a\nb\r\nc\rdata: d\n").event("x\nid: 9").id("1\r2");
        let text = String::from_utf8(event.to_bytes()).unwrap();
        assert_eq!(
            text,
            "event: x id: 9\nid: 1 2\ndata: a\ndata: b\ndata: c\ndata: data: d\ndata: \n\n"
        );
        let retry = Event::comment("c").retry(Duration::from_millis(1500));
        assert_eq!(retry.to_bytes(), b": c\nretry: 1500\n\n");
    }

    #[test]
    fn silence_is_filled_with_heartbeats() {
        async fn quiet(_: &Request) -> Response {
            let (events, sse) = Sse::channel(1);
            crate::spawn(async move {
                sleep(Duration::from_millis(200)).await;
                let _ = events.send(Event::new("at last")).await;
            });
            sse.heartbeat(Duration::from_millis(5)).into_response()
        }
        let reply = Client::new(App::new().get("/", quiet)).get("/");
        let text = reply.text().strip_suffix("data: at last\n\n").unwrap();
        assert!(text.len() >= 3 && text.replace(":\n\n", "").is_empty(), "{text:?}");
    }
}
