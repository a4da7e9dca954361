//! Streams that handlers and tasks own: their commands to the driver, and what came of them.

use ember::net::{StreamEvent, StreamId};
use ember::rt::Command;
use ember_uring::{Address, Buffer, Driver, Errno, Payload, Sock, Then};

use super::thread::{Stage, Thread};

/// A receive that gives this much was not the last of its message.
const FLOW_BYTES: usize = 4 << 10;

/// How a stream stands with the driver.
pub(super) struct Client {
    sock: Option<Sock>,
    sending: bool,
    /// So much came last that more will be there.
    flows: bool,
    /// Nobody holds it any more: it closes when the last payload is out.
    dropped: bool,
}

impl<D: Driver> Thread<D> {
    /// Carries out what futures have asked of the ring.
    pub(super) fn run_commands(&mut self) {
        let mut commands = std::mem::take(&mut self.commands);
        self.runtime.take_commands(&mut commands);
        for command in commands.drain(..) {
            match command {
                Command::Connect { stream, address } => self.connect(stream, &address),
                Command::Recv { stream } => self.receive_on(stream),
                Command::Send { stream, payload, last } => self.send_on(stream, payload, last),
                Command::Close { stream } => self.drop_stream(stream),
                Command::Peer { task } => self.ask_peer(task),
                Command::Body { task } => self.ask_body(task),
            }
        }
        self.commands = commands;
    }

    fn client(&mut self, stream: StreamId) -> &mut Client {
        let at = stream.index();
        if at >= self.clients.len() {
            self.clients.resize_with(at + 1, || Client::new(None));
        }
        &mut self.clients[at]
    }

    fn connect(&mut self, stream: StreamId, address: &Address) {
        match self.driver.connect(address) {
            Ok(sock) => {
                *self.client(stream) = Client::new(Some(sock));
                let connection = self.connection(sock);
                connection.stage = Stage::Client(stream);
                connection.sock = Some(sock);
            }
            Err(error) => {
                *self.client(stream) = Client::new(None);
                let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                self.runtime.stream_event(stream, StreamEvent::Failed(errno));
            }
        }
    }

    /// Makes a connection a stream of its own from now on.
    pub(super) fn hand_over(&mut self, sock: Sock, received: &[u8]) -> ember::net::Stream {
        let (id, stream) = self.runtime.adopt_stream(received);
        *self.client(id) = Client::new(Some(sock));
        self.connection(sock).stage = Stage::Client(id);
        stream
    }

    fn receive_on(&mut self, stream: StreamId) {
        let Client { sock: Some(sock), flows, .. } = *self.client(stream) else { return };
        // A reply, or the next request, is rarely there before it was waited for; the rest of a
        // large body is.
        let queued = if flows { self.driver.recv(sock) } else { self.driver.recv_later(sock) };
        if queued.is_err() {
            self.stream_failed(stream, sock, Errno::ENOBUFS);
        }
    }

    fn send_on(&mut self, stream: StreamId, payload: Payload, last: bool) {
        let client = self.client(stream);
        let Some(sock) = client.sock else { return };
        client.sending = true;
        self.send(sock, payload, if last { Then::Shutdown } else { Then::Nothing });
    }

    fn drop_stream(&mut self, stream: StreamId) {
        let client = self.client(stream);
        client.dropped = true;
        match client.sock {
            None => self.runtime.stream_closed(stream),
            Some(sock) if client.sending => {
                // A peer that does not read may not hold the socket for ever.
                let after = self.client_write_ticks();
                self.set_deadline(sock, after);
            }
            Some(sock) => self.driver.close(sock),
        }
    }

    pub(super) fn stream_received(&mut self, stream: StreamId, buffer: Buffer) {
        let bytes = self.driver.bytes(&buffer);
        let flows = bytes.len() >= FLOW_BYTES;
        self.runtime.stream_event(stream, StreamEvent::Received(bytes));
        self.driver.give_back(buffer);
        self.client(stream).flows = flows;
    }

    pub(super) fn stream_sent(&mut self, stream: StreamId, sock: Sock) {
        let client = self.client(stream);
        client.sending = false;
        if client.dropped {
            self.driver.close(sock);
        } else {
            self.runtime.stream_event(stream, StreamEvent::Sent);
        }
    }

    pub(super) fn stream_failed(&mut self, stream: StreamId, sock: Sock, errno: Errno) {
        self.client(stream).sending = false;
        self.runtime.stream_event(stream, StreamEvent::Failed(errno));
        self.driver.close(sock);
    }

    /// The socket is closed; the stream's place is free once it is not held any more.
    pub(super) fn stream_closed(&mut self, stream: StreamId) {
        let client = self.client(stream);
        client.sock = None;
        if client.dropped {
            self.runtime.stream_closed(stream);
        } else {
            self.runtime.stream_event(stream, StreamEvent::Closed);
        }
    }
}

impl Client {
    fn new(sock: Option<Sock>) -> Client {
        Client { sock, sending: false, flows: false, dropped: false }
    }
}
