//! A reply of an upstream whose head is there, and what becomes of its body.

use std::future::poll_fn;
use std::io;

use ember::{Body, IntoResponse, Response, Upgrade};
use ember_http::FieldBlock;
use ember_http::caching::ReplyFacts;
use ember_http::upstream::{HopOptions, ReplyBody, ReplyBodyKind};

use super::failure::Cause;
use super::plan::Plan;
use super::pool::Connection;
use super::reply::{Announced, Incoming, ReplyStream};
use super::{Loaded, tunnel};

/// A reply, its body yet to come.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) status: u16,
    pub(super) fields: FieldBlock,
    /// What its fields say to caches.
    pub(super) facts: ReplyFacts,
    incoming: Incoming,
    /// What Content-Length says.
    length: Option<u64>,
    upgrade: bool,
}

impl Fetched {
    /// Takes over the reply whose head was parsed last on this connection.
    pub(super) fn new(
        loaded: Loaded,
        mut connection: Connection,
        plan: Plan,
    ) -> Result<Fetched, Cause> {
        let status = connection.head.status();
        let (kind, length, fields, persists);
        let mut facts = ReplyFacts::default();
        {
            let Connection { stream, head, head_len, .. } = &connection;
            let buffer = stream.buffer();
            let bytes = &buffer[..*head_len];
            kind = head.body(bytes, plan.method).map_err(Cause::Fault)?;
            let options = HopOptions::of(head.fields(bytes));
            persists = head.persists(&options) && kind != ReplyBodyKind::UntilClose;
            length = content_length(&connection, bytes);
            if loaded.proxy.cache.is_some() {
                facts = ReplyFacts::of(head.fields(bytes));
            }
            fields = block(&connection, bytes, &options, status == 101)?;
        }
        connection.stream.consume(connection.head_len);
        let body = ReplyBody::new(kind);
        let incoming = Incoming::new(loaded, connection, body, plan.upload, persists);
        Ok(Fetched { status, fields, facts, incoming, length, upgrade: status == 101 })
    }

    /// The next bytes of the body, `None` behind the last.
    pub(super) async fn next_bytes(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.incoming.start();
        poll_fn(|cx| self.incoming.poll_bytes(cx)).await
    }

    /// The reply, its body behind what was taken of it already.
    pub(super) fn into_response_behind(self, front: Vec<u8>) -> Response {
        let stream = ReplyStream::new(self.incoming, self.length).behind(front);
        Response::new(self.status).with_block(self.fields).with_body(Body::stream(stream))
    }

    /// The length that the body will have, where the head tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }
}

impl IntoResponse for Fetched {
    fn into_response(mut self) -> Response {
        let response = Response::new(self.status);
        if self.upgrade {
            let (stream, limit) = self.incoming.into_stream();
            let upgrade = Upgrade::new(move |client| tunnel::run(client, stream, limit));
            return response.with_block(self.fields).with_body(Body::Upgrade(upgrade));
        }
        // Small replies are there as a whole, and their connection is free again at once.
        let body = match self.incoming.try_whole() {
            Some(bytes) if bytes.is_empty() => match self.length {
                // To HEAD, the length is all that is told of the body.
                Some(length) if length > 0 => Body::stream(Announced(length)),
                _ => Body::Empty,
            },
            Some(bytes) => Body::Bytes(bytes),
            None => Body::stream(ReplyStream::new(self.incoming, self.length)),
        };
        response.with_block(self.fields).with_body(body)
    }
}

fn content_length(connection: &Connection, head: &[u8]) -> Option<u64> {
    let value = connection.head.field(head, "content-length")?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The fields that are passed on: those of the connection and the framing are not, nor the Date,
/// which the server writes itself.
fn block(
    connection: &Connection,
    head: &[u8],
    options: &HopOptions<'_>,
    upgrade: bool,
) -> Result<FieldBlock, Cause> {
    let mut block = FieldBlock::new();
    for (name, value) in connection.head.fields(head) {
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        if options.keeps(name) && !(upgrade && is("upgrade")) || name.len() == 4 && is("date") {
            continue;
        }
        block.push(name, value).map_err(|error| Cause::Field(error.to_string()))?;
    }
    Ok(block)
}
