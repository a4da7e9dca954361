//! Connections driven by bytes.

mod common;

use common::{Client, log_of, site};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn a_pipelined_mixture_is_answered_in_order() {
    let bytes = format!(
        "{HELLO}{HELLO}HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n\
         POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde\
         GET /none HTTP/1.1\r\nHost: h\r\n\r\n\
         POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n\
         DELETE /hello HTTP/1.1\r\nHost: h\r\n\r\n\
         OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n\
         GET /tasks/7 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    );
    let expected = "prepared GET 200\nprepared GET 200\nprepared HEAD 200\nrequest POST /echo\n\
         body \"abcde\"\nrefuse 404 not_found Open\nrequest POST /echo\nbody \"abc\"\n\
         answer 405 method_not_allowed\nanswer 204 options\nrequest GET /tasks/7\nclose\n";
    assert_eq!(log_of(bytes.as_bytes()), expected);
}

#[test]
fn what_comes_out_does_not_depend_on_how_bytes_arrive() {
    let bytes = format!(
        "{HELLO}{HELLO}POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
         3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n\r\n{HELLO}GET /hello HTTP/1.1\r\nHost: h\r\n\
         Content-Length: 11\r\n\r\nGET / HTTP/{HELLO}BAD\r\n"
    )
    .into_bytes();
    let whole = log_of(&bytes).replace("body \"\"\n", "");
    assert!(whole.contains("refuse 400"), "{whole}");
    let mut client = Client::new(site());
    for first in 0..=bytes.len() {
        for second in (first..=bytes.len()).step_by(7) {
            client.reconnect();
            client.send(&bytes[..first]);
            client.send(&bytes[first..second]);
            client.send(&bytes[second..]);
            client.eof();
            assert_eq!(client.log, whole, "split at {first} and {second}");
        }
    }
    client.reconnect();
    for byte in &bytes {
        client.send(std::slice::from_ref(byte));
    }
    client.eof();
    assert_eq!(client.log, whole);
}
