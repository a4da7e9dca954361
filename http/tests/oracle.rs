//! The machine against the oracle, on random mixtures of fragments, with random cuts.

mod common;

use common::harness;
use proptest::prelude::*;
use proptest::sample::select;

const FRAGMENTS: &[&str] = &[
    "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n",
    "HEAD /health HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /tasks/12 HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nGET /x ",
    "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "POST /old HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "DELETE /hello?x HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h/a/../%68ello HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "GET /hello HTTP/1.1\r\n",
    "POST /echo HTTP/1.1\r\n",
    "Host: h\r\n",
    "Host: [::1]:80\r\n",
    "Content-Length: 4\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "X: y\r\n",
    "\r\n",
    "3\r\nabc\r\n",
    "a;x=\"y\"\r\n0123456789\r\n",
    "0\r\n\r\n",
    "0\r\nA: b\r\n\r\n",
    "0",
    " ",
    "\n",
    "\r",
    ":",
];

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop::collection::vec(select(FRAGMENTS), 1..12);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (any::<[u8; 4]>(), fragments, changes).prop_map(|(cuts, fragments, changes)| {
        let mut data = [&cuts[..], fragments.concat().as_bytes()].concat();
        for (place, byte) in changes {
            let place = 4 + place.index(data.len() - 4);
            data[place] = byte;
        }
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_machine_and_the_oracle_agree(data in stream()) {
        harness::connection(&data);
    }
}
