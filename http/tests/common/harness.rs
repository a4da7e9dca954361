//! What the fuzz targets, the property tests and the kept corpus all run.

use std::cell::RefCell;

use ember_http::Memo;

use super::{Client, oracle, site};

/// Bytes behind this many are not looked at: the oracle knows no limits of length.
const LEN_MAX: usize = 4096;

/// Feeds a stream, cut by the numbers in its first bytes, and compares with the oracle.
pub fn connection(data: &[u8]) {
    let Some((cuts, stream)) = data.split_first_chunk::<4>() else { return };
    let stream = &stream[..stream.len().min(LEN_MAX)];
    with_client(|client| {
        let whole = log_of_pieces(client, std::iter::once(stream));
        compare(&whole, stream);
        client.reconnect();
        let pieces = cut(stream, cuts);
        assert_eq!(log_of_pieces(client, pieces.into_iter()), whole, "{}", show(stream));
        client.reconnect();
        assert_eq!(log_of_pieces(client, stream.chunks(1)), whole, "{}", show(stream));
    });
}

/// One request's field lines and target, framed so that the stream is one request at least.
pub fn head(data: &[u8]) {
    let mut stream = b"GET /hello HTTP/1.1\r\nHost: h\r\n".to_vec();
    stream.extend_from_slice(&data[..data.len().min(LEN_MAX)]);
    stream.extend_from_slice(b"\r\n\r\nGET /hello HTTP/1.1\r\nHost: h\r\n\r\n");
    with_client(|client| {
        compare(&log_of_pieces(client, std::iter::once(&stream[..])), &stream);
    });
}

/// A chunked body and what is behind it.
pub fn chunked(data: &[u8]) {
    let mut stream =
        b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    stream.extend_from_slice(&data[..data.len().min(LEN_MAX)]);
    with_client(|client| {
        let whole = log_of_pieces(client, std::iter::once(&stream[..]));
        compare(&whole, &stream);
        client.reconnect();
        assert_eq!(log_of_pieces(client, stream.chunks(1)), whole, "{}", show(&stream));
    });
}

/// A connection without memories. The site is built once a thread, since that takes longer than
/// all the rest.
fn with_client(run: impl FnOnce(&mut Client)) {
    thread_local! {
        static CLIENT: RefCell<Client> = RefCell::new(Client::new(site()));
    }
    CLIENT.with_borrow_mut(|client| {
        client.memo = Memo::new();
        client.reconnect();
        run(client);
    });
}

fn cut<'s>(stream: &'s [u8], cuts: &[u8; 4]) -> Vec<&'s [u8]> {
    let mut pieces = Vec::new();
    let mut rest = stream;
    for place in cuts {
        let (piece, tail) = rest.split_at(usize::from(*place).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

fn log_of_pieces<'s>(client: &mut Client, pieces: impl Iterator<Item = &'s [u8]>) -> Vec<String> {
    for piece in pieces {
        client.send(piece);
    }
    client.eof();
    client
        .log
        .lines()
        .filter(|line| !line.starts_with("after"))
        .map(|line| match line.split_once(' ') {
            Some((word @ ("refuse" | "answer"), rest)) => format!("{word} {}", &rest[..3]),
            _ => line.to_owned(),
        })
        .collect()
}

fn compare(log: &[String], stream: &[u8]) {
    let (expected, cut_off) = oracle::log_of(stream);
    let stream = show(stream);
    let (last, events) = log.split_last().expect("an end-of-file closes");
    assert_eq!(last, "close", "{stream}");
    let common = events.len().min(expected.len());
    for (event, expected) in events.iter().zip(&expected) {
        if expected == "any" {
            // A condition or range: any answer of the prepared route.
            let prepared = ["prepared", "answer 206", "answer 416", "refuse 412"];
            assert!(prepared.iter().any(|start| event.starts_with(start)), "{event}\n{stream}");
        } else {
            assert_eq!(event, expected, "{stream}");
        }
    }
    assert_eq!(common, expected.len(), "too little came of {stream}: {events:?} {expected:?}");
    match &events[common..] {
        [] => {}
        // What is cut off may have been found wrong before its end.
        [more] if cut_off && more.starts_with("refuse") => {}
        more => panic!("too much came of {stream}: {more:?}"),
    }
}

fn show(stream: &[u8]) -> String {
    stream.escape_ascii().to_string()
}
